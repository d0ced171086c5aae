"""The pictures of a folder that is given to test a trained network with: which of them, and in which classes."""

from __future__ import annotations

import numpy as np

from dnas.data.sources.folder import find_layout, list_folder, unwrapped
from dnas.data.sources.listing import ENDINGS, LeftOut, Listing, look_below, subfolders
from dnas.data.sources.parts import find_parts, part_of
from dnas.data.sources.protocol import Source
from dnas.data.sources.tree import Folder, Tree
from dnas.errors import InputError


def list_given(tree: Tree, classes: tuple[str, ...]) -> tuple[Listing, str]:
    """List the pictures of a folder that is given to test a network with, in the classes of training.

    All pictures of class folders, of which some classes may be missing. Of a folder that is split into parts those of
    the test part; there may be no other. Folders that all have names of classes are class folders.

    Returns:
        The pictures, and which part of the folder they are: "test" or "all".

    Raises:
        InputError: No class folders, an empty one, or one of another class.
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
                f"the class {folder!r} in {str(tree.path / base)!r} was not there in training; remove it or train "
                "with it"
            )
        below = look_below(tree, f"{base}/{folder}" if base else folder)
        if not below.names:
            raise InputError(
                f"the class folder {str(tree.path / base / folder)!r} holds no images ({' '.join(ENDINGS)}); "
                "fill it or remove it"
            )
        names += below.names
        labels += [index[folder]] * len(below.names)
        left_out.include(below.left_out)
    return Listing(classes, names, np.array(labels, np.int64), left_out), "test" if base else "all"


def _base(tree: Tree, classes: tuple[str, ...]) -> str:
    """The folder, below the one that is given, that holds the class folders to test with; "" for that itself."""
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
