"""Primitives, blocks, search spaces and architectures as data, and the costs of planned networks.

Not here: torch, images and runs.
"""

from dnas.space.architecture import Architecture as Architecture
from dnas.space.darts import DARTS as DARTS
from dnas.space.darts import Space as Space
from dnas.space.darts_cell import Cell as Cell
from dnas.space.protocol import SearchSpace as SearchSpace
from dnas.space.protocol import reduction_layers as reduction_layers
from dnas.space.registry import SPACES as SPACES
from dnas.space.registry import get_space as get_space
