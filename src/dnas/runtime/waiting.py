"""How the threads of OpenMP wait for each other: they spin for a short while, then they sleep.

A thread that spins uses up a processor that others need: other programs, or the very thread it waits for. By default
libgomp, which torch brings on Linux and which the native kernels share with it, spins for some 10 ms, and libomp and
libiomp, which torch brings elsewhere and which kernels built by clang use, for 200 ms. All read their environment
variables when they are loaded, so these must be set before torch is imported. Importing `dnas` does so, in worker
processes as well.
"""

from __future__ import annotations

import os
import sys
from typing import Final

# How often libgomp looks before a thread sleeps. A look takes tens of nanoseconds, so all of them take some 0.1 to
# 0.2 ms, a few times as long as waking a thread. benchmarks/busy.py compares other numbers.
SPINS: Final = 5_000
# The same for libomp and libiomp, in milliseconds: the shortest time but 0 that all of their versions understand.
MILLISECONDS: Final = 1
BOUNDED: Final = {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": str(MILLISECONDS)}
# A user who has set one of these has decided how threads wait.
VARIABLES: Final = ("OMP_WAIT_POLICY", "KMP_LIBRARY", *BOUNDED)


def bound_spinning() -> None:
    """Set `BOUNDED` in the environment, unless one of `VARIABLES` is set, or torch is imported already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in VARIABLES):
        os.environ.update(BOUNDED)
