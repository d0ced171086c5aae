"""Results of an inspection as text: the data as a run would read it, and warnings."""

from __future__ import annotations

from collections.abc import Sequence

from dnas.data.inspection import Copies, File, Inspection
from dnas.data.sources.listing import Reason, many
from dnas.settings import SQUEEZE

SHOWN = 3
# Ratio of the largest to the smallest class, in training images, above which a warning is printed.
UNBALANCED = 4


def facts(found: Inspection) -> list[tuple[str, str]]:
    """Return the facts about the data as a run would read it, as (subject, text)."""
    train, test = (found.images[part] for part in ("train", "test"))
    colors = "3 channels" if found.channels == 3 else "1 channel (gray)"
    rule = {"crop": "center-cropped to a square", "pad": "padded to a square", SQUEEZE: "squeezed to a square"}
    square = all(width == height for (width, height), _ in found.sizes())
    shape = "" if square else f", {rule[found.resize]} (--resize {found.resize})"
    name, share = found.majority("train")
    return [
        ("data", f"{found.source!r}, read as {found.kind}"),
        ("images", f"{train:,} for training, {test:,} for testing, {many(len(found.classes), 'class', 'classes')}"),
        ("network sees", f"{colors} of {found.image_size}×{found.image_size}{shape}"),
        ("sizes", _sizes(found)),
        ("stored as", _modes(found)),
        ("largest class", f"{short_name(name)}, {100 * share:.1f}% of the training images"),
        *(("note", note) for note in found.notes),
    ]


def left_out(found: Inspection) -> list[str]:
    """Return one line per reason for unused files, with examples."""
    # For hidden files the text counts folders, not their content.
    lines = []
    for each in found.left_out:
        count = f" ({many(each.files, 'file')} in all)" if each.reason == Reason.HIDDEN.value else ""
        lines.append(f"{each.text}{count}{_examples(each.examples)}")
    if found.unreadable:
        shown = ", ".join(f"{each.name!r} ({each.reason})" for each in found.unreadable[:SHOWN])
        more = ", …" if len(found.unreadable) > SHOWN else ""
        lines.append(
            f"{many(len(found.unreadable), 'unreadable image')}, with which a run ends in an error unless it has "
            f"--skip-broken: {shown}{more}"
        )
    return lines


def warnings(found: Inspection) -> list[str]:
    """Return the warnings, one per line."""
    lines = [*_copies(found.exact, "copies", "the same pixels"), *_copies(found.near, "near copies", "nearly the same")]
    if found.near.mirrored:
        lines.append(f"{many(found.near.mirrored, 'pair')} of near copies are mirror images of each other")
    if found.shared:
        count = sum(each.test for each in found.shared)
        named = ", ".join(f"{each.name!r} ({each.train} and {each.test})" for each in found.shared[:SHOWN])
        more = ", …" if len(found.shared) > SHOWN else ""
        lines.append(
            f"hint: by their names, {many(count, 'test image')} may come from the same source as training images: "
            f"{named}{more}; if so, split by source"
        )
    for part, word in (("train", "training"), ("test", "test")):
        if missing := found.lacking(part):
            lines.append(lacking(word, missing))
    if found.imbalance >= UNBALANCED:
        lines.append(unbalanced(found.classes, found.counts["train"]))
    return lines


def lacking(word: str, missing: Sequence[str]) -> str:
    """Return the text about classes without images in a split."""
    return f"no {word} images of {many(len(missing), 'class', 'classes')}: {_names(missing)}"


def unbalanced(classes: Sequence[str], counts: Sequence[int]) -> str:
    """Return the text about classes of very different size.

    Args:
        counts: Number of training images per class.
    """
    low, high = min(range(len(counts)), key=counts.__getitem__), max(range(len(counts)), key=counts.__getitem__)
    share = 100 * counts[high] / max(1, sum(counts))
    return (
        f"unbalanced classes: from {many(counts[low], 'training image')} ({short_name(classes[low])}) to "
        f"{counts[high]:,} ({short_name(classes[high])}, {share:.0f}% of all); see the balanced accuracy, and "
        "--class-weights balanced"
    )


def _copies(found: Copies, word: str, alike: str) -> list[str]:
    if not found.groups:
        return []
    lines = []
    if found.leaked:
        across = [group for group in found.groups if len({each.part for each in group}) > 1]
        lines.append(
            f"{many(found.leaked, 'test image')} {'has' if found.leaked == 1 else 'have'} {word} among the training "
            f"images ({alike}), so the test accuracy is too high{_pairs(across)}"
        )
    for part, label in (("train", "training"), ("test", "test")):
        if found.spare[part]:
            own = [group for group in found.groups if sum(each.part == part for each in group) > 1]
            lines.append(
                f"{many(found.spare[part], f'{label} image')} {'is a' if found.spare[part] == 1 else 'are'} "
                f"{word if found.spare[part] > 1 else word.replace('copies', 'copy')} of another {label} "
                f"image{_pairs(own)}"
            )
    if found.relabeled:
        torn = [group for group in found.groups if len({each.label for each in group}) > 1]
        lines.append(
            f"{many(found.relabeled, 'group')} of {word} {'has' if found.relabeled == 1 else 'have'} several classes, "
            f"of which all but one are wrong{_pairs(torn)}"
        )
    return lines


def _pairs(groups: Sequence[Sequence[File]]) -> str:
    """Return examples of groups: the first two images of each."""
    shown = [" = ".join(repr(f"{e.part}: {e.name}") for e in group[:2]) for group in groups[:SHOWN]]
    return _listed(shown, len(groups))


def _examples(names: Sequence[str]) -> str:
    return f", such as {', '.join(map(repr, names[:SHOWN]))}" if names else ""


def _listed(shown: Sequence[str], count: int) -> str:
    return f": {', '.join(shown)}{', …' if count > len(shown) else ''}" if shown else ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(short_name, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def short_name(name: str) -> str:
    """Shorten the name of a class for a line of text."""
    name = name if len(name) <= 30 else f"{name[:29]}…"
    return name if name.isprintable() else repr(name)


def _sizes(found: Inspection) -> str:
    sizes = found.sizes()
    shown = ", ".join(f"{width}×{height} ({count:,})" for (width, height), count in sizes[:SHOWN])
    if len(sizes) <= SHOWN:
        return shown or "none"
    widths, heights = ([size[axis] for size, _ in sizes] for axis in (0, 1))
    return (
        f"{len(sizes):,} sizes, {min(widths)}–{max(widths)} wide and {min(heights)}–{max(heights)} high; most "
        f"often {shown}"
    )


def _modes(found: Inspection) -> str:
    return ", ".join(
        " ".join(filter(None, (form, mode, f"of {bits} bit{'s' if bits > 1 else ''} ({count:,})")))
        for (form, mode, bits), count in found.modes()
    )
