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


def pytest_configure(config):
    config.addinivalue_line("markers", "full: long; left out unless asked for by -m full")


def pytest_collection_modifyitems(config, items):
    if "full" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="long; give -m full"))


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory):
    """No test writes an index of its pictures, or finds data sets, where its user has them."""
    os.environ["DNAS_DATA_DIR"] = str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def ray_cluster():
    pytest.importorskip("ray", reason="needs the extra dnas[cluster]")
    from ray_tools import small_cluster

    with small_cluster(cpus=3) as cluster:
        yield cluster
