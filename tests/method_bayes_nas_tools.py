"""What the tests of bayes_nas share."""

import torch
from test_supernet_search import pictures

from dnas.methods.registry import create
from dnas.searching.search import Search
from dnas.settings import GradientSettings
from dnas.space.darts import Space

TINY = Space("free", 2, 2, ("max_pool_3x3", "skip_connect", "sep_conv_3x3"))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def small_search(mapping_name="shared", seed=0, options=None, **changes):
    split, info = pictures(3)
    method = create("bayes-nas", mapping_name, options or {}, TINY)
    values = {"layers": 3, "channels": 2, "epochs": 4, "warmup_epochs": 1, "batch_size": 16, "learning_rate": 0.01}
    values |= {"update": "single-level", "architecture_weight_decay": 0.0, "architecture_learning_rate": 0.05}
    shape = GradientSettings(**values | changes).resolved(len(split), 4.1, 8)
    return Search(method, shape, split, info, seed, "cpu")
