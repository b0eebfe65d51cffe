"""Large arrays leave no holes in the memory of a worker's process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Large arrays of growing size, each followed by a small one that stays, as tables grow.
GROWTH = """
import sys
import numpy as np
from connectors.kafka.allocator import give_back_large_arrays

def resident():
    with open("/proc/self/status") as lines:
        return next(int(x.split()[1]) for x in lines if x.startswith("VmRSS:")) >> 10

if sys.argv[1] == "told":
    give_back_large_arrays()
largest = np.ones(30 << 17)
del largest  # by itself, the library now takes smaller ones for the heap's
before, stay = resident(), []
for size in range(10, 30):
    table = np.ones(size << 17)
    stay.append(np.ones(1 << 13))
    del table
print(resident() - before)
"""


def grown_by(what: str) -> int:
    """MiB by which a process has grown that holds one MiB."""
    command = [sys.executable, "-c", GROWTH, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_what_is_freed_is_given_back() -> None:
    assert grown_by("told") < 10 < grown_by("untold")
