"""Images of a folder given for testing a trained network, and their classes."""

from __future__ import annotations

import numpy as np

from dnas.data.sources.folder import find_layout, list_folder, unwrapped
from dnas.data.sources.listing import ENDINGS, LeftOut, Listing, look_below, subfolders
from dnas.data.sources.parts import find_parts, part_of
from dnas.data.sources.protocol import Source
from dnas.data.sources.tree import Folder, Tree
from dnas.errors import InputError


def list_given(tree: Tree, classes: tuple[str, ...]) -> tuple[Listing, str]:
    """List the images of a folder given for testing a network, with the classes of training.

    These are all images in class folders; classes may be missing. If the folder has splits, only the test split, which
    may be its only one. If all folders have the names of classes, they are class folders.

    Returns:
        The images, and the part of the folder: "test" or "all".

    Raises:
        InputError: No class folders, an empty one, or one of an unknown class.
    """
    base = _base(tree, classes)
    folders = subfolders(tree, base)
    if not folders:
        raise InputError(
            f"--data {str(tree.path)!r} has no class folders with images to test; name them as in training: "
            f"{', '.join(classes[:6])}{', …' if len(classes) > 6 else ''}"
        )
    index = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    left_out = LeftOut()
    for folder in folders:
        if folder not in index:
            raise InputError(
                f"the class {folder!r} in {str(tree.path / base)!r} did not occur in training; remove it or train "
                "with it"
            )
        below = look_below(tree, f"{base}/{folder}" if base else folder)
        if not below.names:
            raise InputError(
                f"the class folder {str(tree.path / base / folder)!r} contains no images ({' '.join(ENDINGS)}); "
                "fill it or remove it"
            )
        names += below.names
        labels += [index[folder]] * len(below.names)
        left_out.include(below.left_out)
    return Listing(classes, names, np.array(labels, np.int64), left_out), "test" if base else "all"


def _base(tree: Tree, classes: tuple[str, ...]) -> str:
    """Return the folder, below the given one, that contains the class folders of the test; "" for the given one."""
    folders = subfolders(tree)
    if set(folders) <= set(classes):
        return ""
    told = {name: part[0] for name in folders if (part := part_of(name)) and name not in classes}
    if find_parts(told) or "train" in told.values():
        return find_layout(tree).test or ""
    held_out = [name for kind in ("test", "validation") for name in told if told[name] == kind]
    return next((base for name in held_out if subfolders(tree, base := unwrapped(tree, name, classes))), "")


SOURCES = (
    Source(
        kind="folder",
        rank=1000,
        within=lambda tree: not (isinstance(tree, Folder) and tree.only),
        pictures=list_folder,
        given=list_given,
        measured=True,
    ),
)
