import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# The plain networks of the benchmarks are the tests' oracles, too.
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
# The tensors of tests are small; a second thread would only wait for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may try to download anything.
os.environ["DNAS_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def ray_cluster():
    pytest.importorskip("ray", reason="needs the extra dnas[cluster]")
    from ray_tools import small_cluster

    with small_cluster(cpus=3) as cluster:
        yield cluster
