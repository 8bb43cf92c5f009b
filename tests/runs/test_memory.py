"""Too little memory ends in a message and not in a hang."""

import resource
import subprocess
import sys

import pytest

from ftp.cli.memory import is_lack_of_memory


@pytest.mark.skipif(sys.platform != "linux", reason="limits of this kind are Linux's")
@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("megabytes", [1100, 1700, 2200])
def test_a_tight_limit_is_told_before_anything_hangs(ftp_recipe, ftp_tiny_model, command, megabytes):
    file = ftp_recipe(model={"use": "huggingface", "id": str(ftp_tiny_model)})
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-m", "ftp", command, str(file)], capture_output=True, text=True, timeout=60, preexec_fn=limit
    )
    assert done.returncode == 2, done.stderr
    assert f"this process may use {megabytes / 1024:.1f} GB of address space (`ulimit -v`)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4398046511104 bytes"),
    ],
)
def test_what_libraries_say_of_it(error):
    assert is_lack_of_memory(error)


def test_other_errors_are_others():
    assert not is_lack_of_memory(ValueError("no such thing"))
