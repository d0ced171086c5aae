"""Waiting of OpenMP threads: they spin for a short while, then they sleep.

A spinning thread occupies a processor that others need: other programs, or even the thread that it waits for. By
default libgomp, which torch includes on Linux and which the native kernels share with it, spins for about 10 ms.
libomp and libiomp, which torch includes elsewhere and which kernels built by clang use, spin for 200 ms. All read their
environment variables when they are loaded, so these must be set before torch is imported. Importing `dnas` does this,
also in worker processes.
"""

from __future__ import annotations

import os
import sys
from typing import Final

# Number of spins of libgomp before a thread sleeps. A spin takes tens of nanoseconds, so all of them take about 0.1 to
# 0.2 ms, a few times as long as waking a thread. benchmarks/busy.py compares other numbers.
SPINS: Final = 5_000
# The same for libomp and libiomp, in milliseconds: the shortest time above 0 that all of their versions support.
MILLISECONDS: Final = 1
BOUNDED: Final = {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": str(MILLISECONDS)}
# If the user has set one of these, threads wait as the user has decided.
VARIABLES: Final = ("OMP_WAIT_POLICY", "KMP_LIBRARY", *BOUNDED)


def bound_spinning() -> None:
    """Set `BOUNDED` in the environment, unless one of `VARIABLES` is set or torch is already imported."""
    if "torch" not in sys.modules and not any(name in os.environ for name in VARIABLES):
        os.environ.update(BOUNDED)
