"""Image files below a folder, by name, and other files that are left out, with the reason.

No file is opened: only names and file types are read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from dnas.data.sources.samples import Labels
from dnas.data.sources.tree import Tree, is_hidden
from dnas.errors import InputError

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".tif", ".tiff", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Also images, which must be converted first.
_OTHER_FORMATS = {
    *(
        ".heic",
        ".heif",
        ".jxl",
        ".svg",
        ".psd",
        ".xcf",
        ".eps",
        ".ico",
        ".icns",
        ".dng",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
    ),
    *(".arw", ".orf", ".rw2", ".dcm", ".nii", ".exr", ".hdr", ".dds", ".pcx", ".sgi", ".qoi", ".j2k"),
}
LIST_ENDINGS = (".csv", ".tsv", ".jsonl")
_SHOWN = 5  # items per reason, at the start of a run
MANY_SHOWN = 50  # items per reason in `dnas data`
EXAMPLES = 3  # files per reason


class Reason(Enum):
    """Reasons to leave out files, in the order of the report."""

    VALIDATION = "validation"
    UNLABELED = "unlabeled"
    BESIDE = "beside"
    LOOSE = "loose"
    UNLISTED = "unlisted"
    REPEATED = "repeated"
    UNREADABLE = "unreadable"
    ARRAYS = "arrays"
    NOT_IMAGES = "not images"
    LINKS = "links"
    HIDDEN = "hidden"


@dataclass(frozen=True)
class LeftOut:
    """Unused files of a listing. Its size does not grow with the number of files.

    Attributes:
        counts: By reason, the number of files (for hidden ones and links: entries) of each item. An item is a folder,
            the ending of a name, or a name.
        examples: By reason, the first few files or entries below the folder of the data set.
        closed: Hidden folders, which count as one entry each: their content was not read.
    """

    counts: dict[Reason, Counter[str]] = field(default_factory=dict)
    examples: dict[Reason, list[str]] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)

    def add(self, reason: Reason, item: str, count: int = 1, examples: Iterable[str] = ()) -> None:
        """Count `count` more files."""
        self.counts.setdefault(reason, Counter())[item] += count
        self._show(reason, examples)

    def include(self, other: LeftOut) -> None:
        """Add the counts of another instance."""
        for reason, items in other.counts.items():
            self.counts.setdefault(reason, Counter()).update(items)
            self._show(reason, other.examples.get(reason, ()))
        self.closed.extend(other.closed)

    def take_back(self, names: Iterable[str]) -> None:
        """Subtract files that are not images, but are used."""
        names = set(names)
        endings = Counter(os.path.splitext(name)[1].lower() for name in names)  # noqa: PTH122
        rest = self.counts.pop(Reason.NOT_IMAGES, Counter()) - endings
        shown = [name for name in self.examples.pop(Reason.NOT_IMAGES, []) if name not in names]
        if rest:
            self.counts[Reason.NOT_IMAGES], self.examples[Reason.NOT_IMAGES] = rest, shown

    def _show(self, reason: Reason, examples: Iterable[str]) -> None:
        shown = self.examples.setdefault(reason, [])
        shown.extend(islice(examples, EXAMPLES - len(shown)))

    def lines(self) -> list[str]:
        """Return one line per reason."""
        return [self.line(reason) for reason in self.reasons()]

    def line(self, reason: Reason, shown: int = _SHOWN) -> str:
        """Return what is left out for a reason: at most `shown` items, and how many more there are."""
        return _TEXTS[reason](self.counts[reason], shown)

    def reasons(self) -> list[Reason]:
        """Return the reasons that occur, in order."""
        return [reason for reason in Reason if reason in self.counts]

    def files(self, reason: Reason, tree: Tree) -> int:
        """Return how many files are left out for a reason; files in closed folders are counted individually."""
        count = self.counts[reason].total()
        if reason is Reason.LINKS:
            return 0  # their targets are elsewhere
        return count + sum(files_in(tree, folder) - 1 for folder in self.closed if reason is Reason.HIDDEN)


@dataclass(frozen=True)
class Listing:
    """Images of one split.

    Attributes:
        classes: Class names in the order of their labels.
        names: Files, by their names in `tree`.
        labels: int64 [N].
        left_out: Files that belong to no split.
        tree: Holds the files, if not the tree that was listed.
        notes: Further notes for the user, one line each.
    """

    classes: tuple[str, ...]
    names: list[str]
    labels: Labels
    left_out: LeftOut = field(default_factory=LeftOut)
    tree: Tree | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """Direct content of a folder: images and folders by name, sorted, and files left out."""

    images: list[str]
    folders: list[str]
    left_out: LeftOut


@dataclass(frozen=True)
class Below:
    """Content of a folder, recursively.

    Attributes:
        names: Images, sorted.
        loose: Number of images directly in the folder.
        folders: Folders directly in it.
    """

    names: list[str]
    loose: int
    folders: list[str]
    left_out: LeftOut


def is_picture(name: str) -> bool:
    """Return True if a file name ends like an image and is not hidden."""
    return name.lower().endswith(ENDINGS) and not name.rpartition("/")[2].startswith(".")


def look(tree: Tree, folder: str = "", *, follow: bool = True) -> Level:
    """Return the direct content of a folder. Raises InputError if it cannot be read.

    Args:
        follow: Whether linked folders count as folders; otherwise they are left out.
    """
    images: list[str] = []
    folders: list[str] = []
    left_out = LeftOut()
    try:
        for name, is_folder, is_link in sorted(tree.scan(folder)):
            path = f"{folder}/{name}" if folder else name
            if is_hidden(name):
                left_out.add(Reason.HIDDEN, _hidden(name), 1, [path])
                if is_folder:
                    left_out.closed.append(path)
            elif is_folder:
                if follow or not is_link:
                    folders.append(name)
                else:
                    left_out.add(Reason.LINKS, folder, 1, [path])
            elif name.lower().endswith(ENDINGS):
                images.append(name)
            else:
                left_out.add(Reason.NOT_IMAGES, os.path.splitext(name)[1].lower(), 1, [path])  # noqa: PTH122
    except OSError as error:
        raise InputError(
            f"the folder {str(tree.path / folder)!r} cannot be read ({error.strerror}); check its permissions"
        ) from error
    return Level(images, folders, left_out)


def top_files(tree: Tree) -> list[str]:
    """Return the files at the top level, sorted, without hidden ones; none if it cannot be read."""
    try:
        return sorted(entry.name for entry in tree.scan("") if not entry.folder and not is_hidden(entry.name))
    except OSError:
        return []


def look_below(tree: Tree, folder: str) -> Below:
    """Return the recursive content of a folder, "" for the top; linked folders in it are not followed."""
    top = look(tree, folder, follow=False)
    names: list[str] = []
    left_out = LeftOut()
    coming = [(folder, top)]
    while coming:
        place, level = coming.pop()
        prefix = f"{place}/" if place else ""
        names += [prefix + name for name in level.images]
        left_out.include(level.left_out)
        coming += [(prefix + name, look(tree, prefix + name, follow=False)) for name in level.folders]
    return Below(sorted(names), len(top.images), top.folders, left_out)


def files_in(tree: Tree, folder: str) -> int:
    """Count the files of any kind below a folder, recursively; linked folders are not followed."""
    count, coming = 0, [folder]
    while coming:
        place = coming.pop()
        try:
            for name, is_folder, is_link in tree.scan(place):
                if not is_folder:
                    count += 1
                elif not is_link:
                    coming.append(f"{place}/{name}" if place else name)
        except OSError:  # no permission, or a broken link
            continue
    return count


def subfolders(tree: Tree, folder: str = "") -> list[str]:
    """Return the folders directly in a folder, sorted. Raises InputError if a name is not UTF-8."""
    names = look(tree, folder).folders
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise InputError(f"the name of the class folder {str(tree.path / folder / name)!r} is not UTF-8; rename it")
    return names


def _hidden(name: str) -> str:
    """Return the name of a hidden file, or the kind of name if there may be one per image."""
    if name.startswith("._"):  # companion files of macOS on other file systems
        return "._*"
    return f".*{os.path.splitext(name)[1]}" if name.lower().endswith(ENDINGS) else name  # noqa: PTH122


def many(count: int, what: str, several: str = "") -> str:
    """Format a number with its noun: "1 image", "1,200 images". `several`: an irregular plural."""
    return f"{count:,} {what if count == 1 else several or f'{what}s'}"


def _listed(texts: list[str], shown: int) -> str:
    return ", ".join(texts[:shown]) + (f" and {len(texts) - shown:,} more" if len(texts) > shown else "")


def _ranked(items: Counter[str]) -> list[tuple[str, int]]:
    """Sort by frequency, then by name, independently of the file system."""
    return sorted(items.items(), key=lambda item: (-item[1], item[0]))


def _by_folder(items: Counter[str], shown: int) -> str:
    return _listed([f"{count:,} in {item!r}" for item, count in sorted(items.items())], shown)


def _folders(items: Counter[str], shown: int) -> str:
    return _listed(
        [f"{item!r} ({many(count, 'image') if count else 'no images'})" for item, count in sorted(items.items())],
        shown,
    )


def _validation(items: Counter[str], shown: int) -> str:
    remedy = "to train on them, move them to the training images"
    return f"validation images in {_folders(items, shown)}, since there are test images; {remedy}"


def _unlabeled(items: Counter[str], shown: int) -> str:
    return f"images without class folders in {_folders(items, shown)}"


def _beside(items: Counter[str], shown: int) -> str:
    return f"folders beside the splits: {_folders(items, shown)}"


def _loose(items: Counter[str], shown: int) -> str:
    return f"images outside class folders: {_by_folder(items, shown)}"


def _unlisted(items: Counter[str], shown: int) -> str:
    return f"images that are not listed: {_by_folder(items, shown)}"


def _repeated(items: Counter[str], shown: int) -> str:
    return f"repeated rows: {_by_folder(items, shown)}"


def _unreadable(items: Counter[str], shown: int) -> str:
    return f"unreadable images, skipped by --skip-broken: {_by_folder(items, shown)}"


def _arrays(items: Counter[str], shown: int) -> str:
    return f"arrays that are neither images nor labels: {_listed(sorted(items), shown)}"


def _not_images(items: Counter[str], shown: int) -> str:
    kinds = [f"{count:,} {item or 'without an ending'}" for item, count in _ranked(items)]
    kind = "is not an image" if items.total() == 1 else "are not images"
    odd = sorted(items.keys() & _OTHER_FORMATS)
    joined = " and ".join(filter(None, (", ".join(odd[:-1]), *odd[-1:])))
    remedy = f"; convert {joined} to .png or .jpg, to use them" if odd else ""
    return f"{many(items.total(), 'file')} that {kind} ({_listed(kinds, shown)}){remedy}"


def _links(items: Counter[str], shown: int) -> str:
    return f"linked folders within class folders: {_by_folder(items, shown)}"


def _hidden_ones(items: Counter[str], shown: int) -> str:
    names = [f"{count:,} {item}" if count > 1 else item for item, count in _ranked(items)]
    return f"hidden files and folders: {_listed([name if name.isprintable() else repr(name) for name in names], shown)}"


_TEXTS = {
    Reason.VALIDATION: _validation,
    Reason.UNLABELED: _unlabeled,
    Reason.BESIDE: _beside,
    Reason.LOOSE: _loose,
    Reason.UNLISTED: _unlisted,
    Reason.REPEATED: _repeated,
    Reason.UNREADABLE: _unreadable,
    Reason.ARRAYS: _arrays,
    Reason.NOT_IMAGES: _not_images,
    Reason.LINKS: _links,
    Reason.HIDDEN: _hidden_ones,
}
