"""Memory that is free goes back to the system when the process has grown, and not before."""

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
