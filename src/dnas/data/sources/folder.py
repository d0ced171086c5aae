"""Data sets of class folders: location of the splits, their images, and files left out.

A folder that does not look like a class is an error, and so is a folder with ambiguous splits: docs/data.md has the
rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnas.data.sources.listing import ENDINGS, Below, LeftOut, Listing, Reason, look, look_below, many, subfolders
from dnas.data.sources.parts import (
    IMAGE_FOLDERS,
    Parts,
    are_versions,
    find_parts,
    held_out_of,
    is_part,
    may_be_class,
    not_classes,
    part_of,
)
from dnas.data.sources.samples import Labels, in_test
from dnas.data.sources.tree import Tree
from dnas.errors import InputError


@dataclass(frozen=True)
class Layout:
    """Location of the class folders of a data set, below its folder.

    Attributes:
        train: Folder with the class folders of the training split; "" for the folder of the data set.
        test: The same for the test split; None if a fifth of each class is held out.
        validation: Folders of splits with class folders that are not used.
        unlabeled: Folders of splits without class folders.
    """

    train: str
    test: str | None
    validation: tuple[str, ...] = ()
    unlabeled: tuple[str, ...] = ()


def find_layout(tree: Tree) -> Layout:
    """Return the location of the splits of a data set, from folder names only. Also checks the test split, since an
    unusable test folder is better reported before the search than after it.

    Raises InputError if the splits are ambiguous.
    """
    folders = subfolders(tree)
    if not folders:
        raise InputError(
            f"--data {str(tree.path)!r} contains neither class folders of images, nor train/ and test/ with "
            "class folders, nor IDX files; give a folder that does"
        )
    found = find_parts(folders)
    if len(found) > 1:
        trains = _quoted([parts.train[0] for parts in found])
        raise InputError(
            f"{str(tree.path)!r} has several training folders, {trains}, each with its own test folder; give a "
            "folder with one of each, in which every class is a folder"
        )
    if found:
        return _with_parts(tree, found[0])
    for name in folders:
        if is_part(name) and (told := part_of(name)) and told[0] == "train" and subfolders(tree, name):
            raise InputError(
                f"{str(tree.path)!r} has {name}/ but no test/, val/ or valid/ with class folders; add one, or give "
                f"the {name} folder itself, of which a fifth is then held out"
            )
    return Layout("", None)


def _with_parts(tree: Tree, parts: Parts) -> Layout:
    for kind, names in (("training", parts.train), ("test", parts.test), ("validation", parts.validation)):
        if len(names) > 1 and (kind != "validation" or not parts.test):
            raise InputError(f"{str(tree.path)!r} has several {kind} folders, {_quoted(names)}; keep one or merge them")
    train = unwrapped(tree, parts.train[0], ())
    classes = subfolders(tree, train)
    if not classes:
        raise InputError(
            f"{str(tree.path / train)!r} contains no class folders; put the images in one folder per class"
        )
    test: str | None = None
    validation, unlabeled = [], []
    for name in (*parts.test, *parts.validation):
        base = unwrapped(tree, name, classes)
        held_out = subfolders(tree, base)
        if not held_out or _is_image_folder(tree, base, held_out, classes):
            unlabeled.append(name)
        elif test is not None:
            validation.append(name)
        else:
            strangers = [folder for folder in held_out if folder not in set(classes)]
            if strangers:
                raise InputError(
                    f"the class {strangers[0]!r} in {str(tree.path / base)!r} has no folder in {train}/; "
                    "rename it, remove it or add training images"
                )
            test = base
    if test is None:
        raise InputError(
            f"{str(tree.path)!r} has {train}/ but no test/, val/ or valid/ with class folders; add one, or give "
            f"the {train} folder itself, of which a fifth is then held out"
        )
    return Layout(train, test, tuple(validation), tuple(unlabeled))


def unwrapped(tree: Tree, folder: str, classes: Sequence[str]) -> str:
    """Return the folder of a split, or the single folder in it with its class folders (seg_train/seg_train)."""
    while True:
        level = look(tree, folder)
        if len(level.folders) != 1 or level.images or level.folders[0] in classes:
            return folder
        within = look(tree, f"{folder}/{level.folders[0]}")
        if not within.folders or within.images:
            return folder
        folder = f"{folder}/{level.folders[0]}"


def _is_image_folder(tree: Tree, base: str, folders: Sequence[str], classes: Sequence[str]) -> bool:
    """Return True if a split has all its images in one folder that is not a class (test/images)."""
    return (
        len(folders) == 1
        and folders[0] not in classes
        and folders[0].casefold() in IMAGE_FOLDERS
        and not subfolders(tree, f"{base}/{folders[0]}")
    )


def list_folder(tree: Tree, part: str, classes: tuple[str, ...] | None = None) -> Listing:
    """List the images of a part ("train" or "test") of a folder or archive of class folders.

    Files left out are reported with the training part, except those in a test folder.

    Args:
        classes: Classes of training, once they are known.

    Raises:
        InputError: The folder has no class folders, or it is ambiguous which folders are classes.
    """
    layout = find_layout(tree)
    whole = layout.test is None
    base = layout.test if part == "test" and layout.test is not None else layout.train
    folders = subfolders(tree, base)
    below = {folder: look_below(tree, f"{base}/{folder}" if base else folder) for folder in folders}
    if whole or part == "train":
        _require_classes(tree.path / base, below, whole)
    classes = classes or tuple(folders)
    index = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    for folder, found in below.items():
        if not found.names:
            raise InputError(
                f"the class folder {str(tree.path / base / folder)!r} contains no images "
                f"({' '.join(ENDINGS)}); fill it or remove it"
            )
        if whole and len(found.names) < 2:
            raise InputError(
                f"the class folder {str(tree.path / folder)!r} contains one image, too few to split into "
                "training and test; add images or remove it"
            )
        if folder not in index:
            raise InputError(
                f"the class {folder!r} in {str(tree.path / base)!r} did not occur in training; remove it or train "
                "with it"
            )
        names += found.names
        labels += [index[folder]] * len(found.names)
    left_out = LeftOut()
    if part == "train" or not whole:
        _leave_out(left_out, tree, layout, part, base)
        for found in below.values():
            left_out.include(found.left_out)
    every = np.array(labels, np.int64)
    if not whole:
        return Listing(classes, names, every, left_out)
    chosen: Labels = np.flatnonzero(in_test(every) == (part == "test"))
    return Listing(classes, [names[k] for k in chosen], every[chosen], left_out)


def _leave_out(left_out: LeftOut, tree: Tree, layout: Layout, part: str, base: str) -> None:
    """Count files next to the class folders of a part and, with the training part, next to the parts."""
    steps = base.split("/") if base else []
    levels = ["/".join(steps[: k + 1]) for k in range(len(steps))]
    for folder in ["", *levels] if part == "train" else levels:
        level = look(tree, folder)
        left_out.include(level.left_out)
        if level.images:
            prefix = f"{folder}/" if folder else ""
            left_out.add(Reason.LOOSE, folder or ".", len(level.images), (prefix + name for name in level.images))
    if part != "train" or layout.test is None:
        return
    used = {layout.train.split("/")[0], layout.test.split("/")[0]}
    for folder in subfolders(tree):
        if folder not in used:
            unread = Reason.UNLABELED if folder in layout.unlabeled else Reason.BESIDE
            reason = Reason.VALIDATION if folder in layout.validation else unread
            below = look_below(tree, folder)
            left_out.add(reason, folder, len(below.names), below.names)
            left_out.include(below.left_out)


def _require_classes(base: Path, below: Mapping[str, Below], whole: bool) -> None:
    """Raise InputError with a remedy if folders do not look like classes."""
    folders = list(below)
    shown = _quoted(folders)
    rename = "or rename them if they are classes"
    full = [found for found in below.values() if found.names]
    if whole and len(full) == 1 and (within := _wrapped(full[0].names)):
        empty = [folder for folder, found in below.items() if not found.names]
        others = f", and {_quoted(empty)} contain{'s' if len(empty) == 1 else ''} none" if empty else ""
        raise InputError(
            f"all images in {str(base)!r} are in one folder, {within!r}{others}; give --data {str(base / within)!r}"
        )
    what = not_classes(folders)
    if what is not None:
        raise InputError(
            f"the folders {shown} in {str(base)!r} look like {what}, not like classes; move the images into one "
            f"folder per class, give one of these as --data if it holds class folders, {rename}"
        )
    shared = set.intersection(*(set(found.folders) for found in below.values()))
    if are_versions(folders) and shared and not any(found.loose for found in below.values()):
        raise InputError(
            f"the folders {shown} in {str(base)!r} contain the same folders ({_quoted(sorted(shared))}), so they look "
            f"like versions of the same images, not like classes; give one of them as --data, {rename}"
        )
    for folder, found in below.items():
        if find_parts(found.folders):
            raise InputError(
                f"the folder {folder!r} in {str(base)!r} contains splits ({_quoted(found.folders)}), but must contain "
                "images; give it as --data if it is a data set, or move the splits above the classes, as in "
                f"train/{folder}"
            )
        siblings = set(folders) - {folder}
        repeated = sorted(siblings & set(found.folders))
        if not found.loose and siblings and (len(repeated) > 1 or set(repeated) == siblings):
            raise InputError(
                f"the folder {folder!r} in {str(base)!r} repeats the folders next to it "
                f"({_quoted(repeated)}), so it is not a class; remove it or give it as --data"
            )
        if whole and (other := held_out_of(folder, folders)):
            raise InputError(
                f"the folder {folder!r} in {str(base)!r} looks like a split of {other!r}, not like a class; move the "
                "class folders of the one into train/ and those of the other into test/, or rename it if it is a class"
            )
        if whole and not (may_be_class(folder) and (found.loose or not is_part(folder))):
            raise InputError(
                f"the folder {folder!r} in {str(base)!r} looks like a split, not like a class; move the class "
                "folders of training into train/, or rename it if it is a class"
            )


def _wrapped(names: Sequence[str]) -> str | None:
    """Return the folder within a folder that contains all images in several class folders, if there is one."""
    paths = [name.split("/") for name in names]
    depth = 1
    while True:
        if any(len(path) == depth + 1 for path in paths):
            return None
        if len({path[depth] for path in paths}) > 1:
            return "/".join(paths[0][:depth])
        depth += 1


def _quoted(names: Sequence[str]) -> str:
    """Format some names for a message."""
    shown = [repr(name) for name in names[:5]]
    if len(names) > 5:
        return f"{', '.join(shown)} and {many(len(names) - 5, 'other')}"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
