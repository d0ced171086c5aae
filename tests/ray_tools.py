"""A Ray cluster on this machine's own addresses: a head that takes no tasks, and nodes that can be killed."""

import contextlib
import os
from pathlib import Path

HERE = Path(__file__).parent
MEMORY = 80 * 2**20  # of a node's object store; nothing of ours needs one


@contextlib.contextmanager
def small_cluster(cpus):
    """A cluster with one node for tasks; `add_node` and `remove_node` of what is given, with NODE, make more."""
    from ray.cluster_utils import Cluster

    # Tasks import what tests define, and the sources that are under test.
    changed = {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",
    }
    before = {key: os.environ.get(key) for key in (*changed, "RAY_ADDRESS")}
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.update(changed)
    try:
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=MEMORY)
            cluster.add_node(num_cpus=cpus, object_store_memory=MEMORY)
            yield cluster
        finally:
            cluster.shutdown()
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
