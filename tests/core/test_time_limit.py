"""A test that hangs ends, even in C code that hears no signal."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("hang", ["time.sleep(60)", "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); lock()"])
def test_a_hung_test_ends(tmp_path, hang):
    source = (
        "import signal, threading, time\n"
        "def lock():\n    lock = threading.Lock(); lock.acquire(); lock.acquire()\n"
        f"def test_hang():\n    {hang}\n"
    )
    (tmp_path / "test_hang.py").write_text(source)
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    method = next(line.split(chr(34))[1] for line in lines if line.startswith("timeout_method"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:ftp", "--timeout=2"]
    command += [f"--timeout-method={method}", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert done.returncode != 0
    assert "Timeout" in done.stdout + done.stderr
