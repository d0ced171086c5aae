"""A search by bayes-nas, small enough for its curvature to be computed by brute force: for its tests."""

from supernet_search_tools import SMALL, pictures

from dnas.methods.registry import create
from dnas.searching.search import Search
from dnas.settings import GradientSettings


def small_search(mapping_name="shared", seed=0, options=None, **changes):
    split, info = pictures(3)
    method = create("bayes-nas", mapping_name, options or {}, SMALL)
    values = {"layers": 3, "channels": 2, "epochs": 4, "warmup_epochs": 1, "batch_size": 16, "learning_rate": 0.01}
    values |= {"update": "single-level", "architecture_weight_decay": 0.0, "architecture_learning_rate": 0.05}
    shape = GradientSettings(**values | changes).resolved(len(split), 4.1, 8)
    return Search(method, shape, split, info, seed, "cpu")
