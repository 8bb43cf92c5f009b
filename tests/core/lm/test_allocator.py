"""Memory that is free goes back to the system when the process has grown, and not before."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
from ftp.lm import allocator

allocator.keep_large_blocks()
growth = allocator.Growth()
held = [bytearray(b"x" * (1 << 20)) for _ in range(100)]
growth.step_ended()
sizes = [allocator._resident_pages()]
for megabytes in (20, 300):
    more = [bytearray(b"x" * (1 << 20)) for _ in range(megabytes)]
    pin = bytearray(b"x" * 5000)  # above them: the heap can't shrink from its end
    del more
    growth.step_ended()
    sizes.append(allocator._resident_pages())
print(*(size * 4096 >> 20 for size in sizes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's allocator")
def test_a_process_that_grew_gives_back_what_is_free():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    first, little, grown = map(int, done.stdout.split())
    assert first + 15 <= little  # a little more is kept for the next step
    assert grown <= first + 10


AGAIN = """
import os, sys
sys.path[:0] = {path!r}
from ftp.lm import allocator

print("once", flush=True)
allocator.restart_without_cache()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's allocator")
@pytest.mark.parametrize("name", ["ftp", "other"])
@pytest.mark.parametrize("before", ["", "glibc.malloc.perturb=0"])
def test_the_command_line_alone_is_restarted_once_with_the_same_arguments(tmp_path, name, before):
    script = tmp_path / name
    script.write_text(AGAIN.format(path=[path for path in sys.path if path]))
    environment = {**os.environ, "GLIBC_TUNABLES": before}
    process = subprocess.Popen(
        [sys.executable, "-X", "utf8", script, "run", "a b"], stdout=subprocess.PIPE, text=True, env=environment
    )
    *begun, settings = process.communicate()[0].splitlines()
    tunables = ":".join([before] * bool(before) + ["glibc.malloc.tcache_count=0"] * (name == "ftp"))
    assert settings == f"{process.pid} {tunables} run a b" and begun == ["once"] * (2 if name == "ftp" else 1)
