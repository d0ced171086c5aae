"""Data sets: from a folder to batches of uint8 images, and their augmentation.

Not here: architectures, networks and runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnas.data.splits import DataInfo as DataInfo
    from dnas.data.splits import Split as Split
    from dnas.data.splits import load_test as load_test
    from dnas.data.splits import load_train as load_train

_SPLITS = ("DataInfo", "Split", "load_test", "load_train")


def __getattr__(name: str) -> Any:
    # Imported on first use, since they require torch and the names of data sets do not.
    if name in _SPLITS:
        from dnas.data import splits

        return getattr(splits, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
