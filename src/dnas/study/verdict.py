"""Conclusions from the figures of a run or a study, in sentences that claim no more than the intervals support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dnas.data.shares import BALANCED
from dnas.runtime.names import FOUND, PRIOR, RANDOM, SECOND
from dnas.study.statistics import LEVEL

SEARCH_ORIGINS = (FOUND, SECOND)
# An agreement of the halves of a search below this is called noise: two standard deviations of halves without signal,
# for six shared layers. If each layer is separate, the deviations are half as large.
NOISE = 0.2
# Descriptions of the candidates of the finals. Other origins are names of published architectures.
ORIGINS = {
    FOUND: "the searched network",
    SECOND: "a second choice of the search",
    PRIOR: "a network proposed by the prior from other images",
    RANDOM: "a random network",
}


def networks(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the trained and tested networks of a run with their display names: its own network, and its baseline.

    Args:
        result: The content of a result.json, or of a part of it.
    """
    if "test_accuracy" not in result:
        return []
    if "answers" in result:
        return [row for each in result["answers"] for row in _answer(each)]
    name = f"{result['method']} ({result['mapping']})" if result["method"] else ""
    if result.get("with_parts"):
        name = f"{name} with {', '.join(result['with_parts'])}"
    if name and not searched(result):
        name = f"winner of the finals ({(winner(result) or {})['origin']})"
    rows = [(name or result.get("architecture", "trained"), result)]
    return [*rows, ("random, same size", result["baseline"])] if "baseline" in result else rows


# The units of limits, for messages.
LIMITED = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "ram": "bytes of activations",
    "size": "bytes of the ONNX file",
    "latency": "nanoseconds for one image, as predicted",
}


def _answer(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the network for one of several values of a limit, and its random baseline."""
    # Costs with a column of their own are not repeated.
    used = "" if row["limit"] in ("params", "macs") else f", {row['used']:,} used"
    named = [(f"{row['limit']} ≤ {row['value']:,}{used}", row)]
    return [*named, ("  random, same size", row["baseline"])] if "baseline" in row else named


def of_answers(result: Mapping[str, Any]) -> str | None:
    """Return a sentence on the Pareto front of several networks; None if there is only one."""
    rows = result.get("answers")
    if not rows:
        return None
    front = [f"{row['value']:,}" for row in rows if row["front"]]
    text = (
        f"One search, {len(rows)} networks. On the Pareto front of accuracy and {LIMITED[rows[0]['limit']]}: "
        f"{', '.join(front)}."
    )
    paid = [f"{row['value']:,}" for row in rows if "baseline" in row and of_difference(row, row["baseline"]) > 0]
    if "baseline" in rows[0]:
        text += f" Significantly better than the random baseline: {', '.join(paid) or 'none'} (one seed)."
    return text


def of_difference(ours: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Return 1 if an accuracy is better and the intervals do not overlap, -1 if it is worse, else 0."""
    if ours["test_interval"][0] > other["test_interval"][1]:
        return 1
    return -1 if other["test_interval"][0] > ours["test_interval"][1] else 0


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Return all sentences on a result.json."""
    tested = "test_accuracy" in result
    if "answers" in result:
        return [sentence for sentence in (of_answers(result), of_signal(result)) if sentence is not None]
    said = (
        of_origin(result) if tested else None,
        of_classes(result) if tested else None,
        of_finals(result) if tested else None,
        of_spaces(result) if tested else None,
        of_run(result) if "baseline" in result else None,
        of_signal(result),
    )
    return [sentence for sentence in said if sentence is not None]


def of_run(result: Mapping[str, Any]) -> str:
    """Return a sentence on search vs. random baseline that claims no more than one pair of trainings can show.

    Args:
        result: The content of a result.json that has a baseline.
    """
    ours, other = result, result["baseline"]
    difference = 100 * (ours["test_accuracy"] - other["test_accuracy"])
    if not of_difference(ours, other):
        return (
            f"The difference of {difference:+.2f} percentage points is not significant with {ours['test_images']} test "
            "images: this run does not show that the search beats the random baseline."
        )
    better = ("searched" if searched(result) else "winning") if difference > 0 else "random"
    return (
        f"The {better} network is better by {abs(difference):.2f} percentage points; the confidence intervals do not "
        "overlap (one seed)."
    )


def of_classes(result: Mapping[str, Any]) -> str | None:
    """Return a sentence that puts an accuracy on unbalanced classes in context; None if they are balanced.

    Args:
        result: The content of a result.json, or the result of `evaluation.evaluate`. Earlier versions had no classes.
    """
    classes = result.get("per_class", ())
    images = [row["images"] for row in classes]
    if not images or max(images) < BALANCED * min(images):
        return None
    largest = max(classes, key=lambda row: row["images"])
    least = min((row for row in classes if row["recall"] is not None), key=lambda row: row["recall"])
    return (
        f"{100 * result['majority_share']:.1f}% of the test images are {largest['class']!r}: always predicting it has "
        f"an accuracy of {result['majority_share']:.4f}. The mean recall over classes (balanced accuracy) is "
        f"{result['balanced_accuracy']:.4f}, the lowest is {least['recall']:.4f} ({least['class']!r})."
    )


def winner(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the candidate that won the finals; None if there were none."""
    return next((each for each in result.get("finals", ()) if each.get("winner")), None)


def searched(result: Mapping[str, Any]) -> bool:
    """Return True if the trained network comes from the search."""
    won = winner(result)
    return won is None or won["origin"] in SEARCH_ORIGINS


def of_finals(result: Mapping[str, Any]) -> str | None:
    """Return a sentence on the origin of the trained network; None if there were no finals."""
    won = winner(result)
    if won is None:
        return None
    finals = result["finals"]
    last = len(won["accuracies"])
    # A diverged training has no accuracy.
    lasted = [each["accuracies"][-1] for each in finals if each is not won and len(each["accuracies"]) == last]
    seconds = sorted(accuracy for accuracy in lasted if accuracy is not None)
    kept = ORIGINS.get(won["origin"], f"the known {won['origin']}")
    text = (
        f"Of {len(finals)} candidates, the finals kept {kept}, with an accuracy of {won['accuracies'][-1]:.3f} on "
        "held-out images"
    )
    return f"{text} (runner-up: {seconds[-1]:.3f})." if seconds else f"{text}."


def of_spaces(result: Mapping[str, Any]) -> str | None:
    """Return a sentence on the spaces whose candidates met in the finals; None if there was only one."""
    compared = result.get("spaces")
    if compared is None or not compared["others"]:
        return None
    rows = [row for row in compared["others"] if row["accuracy"] is not None]
    ahead = [
        f"{100 * row['ahead']:.1f} ± {100 * row['standard_error']:.1f}{'' if k else ' percentage points'} over "
        f"{row['space']} (after {100 * row['share']:g}%{'' if k else ' of the training'})"
        for k, row in enumerate(rows)
    ]
    text = f"Of {1 + len(compared['others'])} spaces, {compared['winner']} won the finals"
    if ahead:
        text += f" by {' and '.join(ahead)}, on {compared['images']:,} held-out images (± standard error)"
    diverged = [row["space"] for row in compared["others"] if row["accuracy"] is None]
    return f"{text}; the trainings of {' and '.join(diverged)} diverged." if diverged else f"{text}."


def of_origin(result: Mapping[str, Any]) -> str | None:
    """Return a sentence on the pretrained weights of a training; None if there were none."""
    origin = result.get("origin")
    if not origin:
        return None
    taken, count = origin["weights"], origin["of"]
    weights = f"all {count:,}" if taken == count else f"{taken:,} of {count:,}"
    accuracy = (
        f", which has a test accuracy of {origin['test_accuracy']:.4f} on" if "test_accuracy" in origin else " on"
    )
    head = "; its last layer is new" if origin["new_head"] else ""
    return f"Training started from {weights} weights of {origin['run']}{accuracy} {origin['data']}{head}."


def of_signal(result: Mapping[str, Any]) -> str | None:
    """Return a warning that a gradient-based search ended as noise; None if it did not, or if that is unknown."""
    agreement = result.get("signal", {}).get("agreement")
    if agreement is None or agreement >= NOISE:
        return None
    return (
        "The search ended as noise: the two halves of its architecture batches would have led to networks with an "
        f"agreement of {agreement:.2f}, where 0 is chance and 1 is identity (below {NOISE} is noise)."
    )


def direction(difference: Mapping[str, Any]) -> int | None:
    """Return -1 if a difference a - b of test errors shows that a is better, 1 for b, 0 for neither; None if unknown.

    A difference is significant if its interval excludes zero and the adjusted p, if there is one, is below the level.
    """
    low, high, p = difference.get("low"), difference.get("high"), difference.get("p_adjusted")
    if low is None or high is None:
        return None
    if low <= 0 <= high or (p is not None and p >= LEVEL):
        return 0
    return -1 if high < 0 else 1


def of_study(study: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of a study: the lowest error, searches vs. their controls, and missing runs.

    Args:
        study: The content of a study.json.
    """
    rows = [row for row in study["rows"] if row["test_error"] and row["test_error"].get("mean") is not None]
    missing = len(study.get("missing") or [])
    undone = f"{_count(missing, 'run')} of this study {'is' if missing == 1 else 'are'} not done yet"
    if not rows:
        return ["There are no test results yet" + (f": {undone}." if missing else ".")]
    sentences = [_lowest(rows, study["differences"])]
    controls = {(row["of"], row["name"]) for row in study["rows"] if row.get("of")}
    shown = [
        verdict * sign
        for difference in study["differences"]
        for sign, pair in ((1, ("a", "b")), (-1, ("b", "a")))
        if (difference[pair[0]], difference[pair[1]]) in controls and (verdict := direction(difference)) is not None
    ]
    if shown:
        better, worse, open_ = (sum(v == wanted for v in shown) for wanted in (-1, 1, 0))
        said = [f"{n} {words}" for n, words in _outcomes(better, worse, open_) if n]
        sentences.append(
            f"Of {_count(len(shown), 'comparison')} of a search with its control, {', '.join(said)}."
            + (" A difference may still exist if it is not significant; more seeds could reveal it." if open_ else "")
        )
    elif controls:
        sentences.append("No search has been compared with its control yet, so its benefit is unknown.")
    if missing:
        sentences.append(f"{undone[0].upper()}{undone[1:]}, so these conclusions may change.")
    return sentences


def _outcomes(better: int, worse: int, open_: int) -> Sequence[tuple[int, str]]:
    return (
        (better, "favors the search" if better == 1 else "favor the search"),
        (worse, "favors the control" if worse == 1 else "favor the control"),
        (open_, "shows no significant difference" if open_ == 1 else "show no significant difference"),
    )


def _lowest(rows: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]) -> str:
    best = min(rows, key=lambda row: row["test_error"]["mean"])
    error = best["test_error"]
    text = f"The lowest mean test error is that of {best['name']}: {100 * error['mean']:.2f}%"
    if error.get("low") is not None and error.get("high") is not None:
        text += f" (95% CI {100 * error['low']:.2f}–{100 * error['high']:.2f}%)"
    if len(rows) == 1:
        return f"{text}."
    known = {row["name"] for row in rows} - {best["name"]}
    behind = set()
    for difference in differences:
        if difference["a"] == best["name"] and direction(difference) == -1:
            behind.add(difference["b"])
        if difference["b"] == best["name"] and direction(difference) == 1:
            behind.add(difference["a"])
    count = len(behind & known)
    if count == len(known):
        return f"{text}; it is significantly better than all {len(known)} others."
    if not count:
        return f"{text}, but it is not significantly better than any of the {len(known)} others."
    return f"{text}; it is significantly better than {count} of the {len(known)} others, but not than the rest."


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
