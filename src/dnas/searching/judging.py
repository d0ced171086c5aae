"""What a search on a supernet and one by trials share: how candidates are judged, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from dnas.methods.protocol import Candidate, Method, Trial
from dnas.runtime.names import SEARCH_STAGE
from dnas.space.architecture import Architecture

STAGE = SEARCH_STAGE
# A backward pass takes twice a forward pass: one set of products for the inputs' gradients, one for the weights'.
FORWARD = 1 / 3

OTHERS = 2  # second choices that a search names
# Images that are judged at once by the statistics of their own batch.
JUDGED_AT_ONCE = 256


@dataclass(frozen=True)
class Answer:
    """What a search finds within limits.

    Attributes:
        architecture: The result.
        others: Second choices: the next best that were judged, or samples of the learnt distribution.
        validation_accuracy: Of the architecture, where the search judged it, in a trial or with the supernet's weights.
    """

    architecture: Architecture
    others: tuple[Architecture, ...] = ()
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Found:
    """What a search gives.

    Attributes:
        answers: To each value, where a limit has several; the last is what was found.
        parameters: The architecture parameters behind it; empty where there are none.
        cost: `step_equivalents`: what was computed, in passes of one batch forward and backward (a forward pass alone
            counts a third); `architectures_evaluated`: how many were judged one by one.
        history: All that were judged one by one.
        signal: Whether a search by gradients knows something (`watch.signal`).
    """

    answers: tuple[Answer, ...]
    parameters: dict[str, Tensor]
    cost: dict[str, float]
    history: tuple[Trial, ...] = ()
    signal: dict[str, float] = field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        return self.answers[-1].architecture

    @property
    def others(self) -> tuple[Architecture, ...]:
        return self.answers[-1].others

    @property
    def validation_accuracy(self) -> float | None:
        return self.answers[-1].validation_accuracy


def answered(
    method: Method, history: Sequence[Trial], answer: Callable[[Sequence[Trial]], Answer]
) -> tuple[Answer, ...]:
    """What a search finds: where a limit has several values within each of them, else once.

    Args:
        history: All that were judged one by one.
        answer: Is given those of them that keep to the limits in force, or all, where none of those has a score.
    """
    found = []
    for feasible in method.answers:
        method.feasible = feasible
        kept = [t for t in history if t.architecture.in_space and feasible.allows(t.architecture)]
        found.append(answer(kept if any(trial.score is not None for trial in kept) else history))
    return tuple(found) or (answer(history),)


def judged_in_rounds(
    method: Method,
    layers: int,
    seed: int,
    known: Sequence[float | None],
    judge: Callable[[int, Sequence[Candidate]], Iterable[float | None]],
    limit: int | None = None,
    finalists: Sequence[Candidate] = (),
) -> list[Trial]:
    """Judge what a method proposes until it proposes nothing, or it is enough.

    Args:
        known: The scores of the first candidates, from an earlier execution: those are proposed again, and not judged.
        judge: Number of the first and candidates → their scores in order; fewer than that end the search.
        limit: Candidates at most.
        finalists: What is judged before anything is proposed.
    """
    history: list[Trial] = []
    while candidates := (finalists if finalists and not history else method.propose(history, layers, seed)):
        candidates = [
            replace(c, architecture=_in_turn(method, number, c.architecture))
            for number, c in enumerate(candidates, len(history))
        ]
        room = candidates if limit is None else candidates[: limit - len(history)]
        scores = list(known[len(history) : len(history) + len(room)])
        if len(scores) < len(room):
            scores += judge(len(history) + len(scores), room[len(scores) :])
        # Where it is enough, or the limit is reached, there are fewer scores than candidates.
        history += [Trial(c.architecture, score, c.share) for c, score in zip(candidates, scores, strict=False)]
        if len(scores) < len(candidates):
            break
    return history


def _in_turn(method: Method, number: int, architecture: Architecture) -> Architecture:
    """A candidate within the limits. Where one has several values, candidates take turns to keep to each of them."""
    if not method.answers:
        return method.within(architecture)
    return method.answers[number % len(method.answers)].within(architecture)


def judged(
    method: Method,
    layers: int,
    seed: int,
    known: Sequence[float | None],
    judge: Callable[[int, Candidate], float | None],
    enough: Callable[[], bool],
    limit: int | None = None,
    finalists: Sequence[Candidate] = (),
) -> list[Trial]:
    """As `judged_in_rounds`, one after another: `judge` takes a number and a candidate, and `enough` says whether to
    end before the next; one is judged in any case."""

    def one_by_one(first: int, candidates: Sequence[Candidate]) -> Iterator[float | None]:
        for number, candidate in enumerate(candidates, first):
            if number > 0 and enough():
                return
            yield judge(number, candidate)

    return judged_in_rounds(method, layers, seed, known, one_by_one, limit, finalists)


def score_of(architecture: Architecture, history: Sequence[Trial]) -> float | None:
    """What an architecture was judged as, on the largest share of images; None where it was not."""
    known = [trial for trial in history if trial.architecture == architecture and trial.score is not None]
    return max(known, key=lambda trial: trial.share).score if known else None


def next_best(architecture: Architecture, history: Sequence[Trial]) -> tuple[Architecture, ...]:
    """The next best of those that were judged, each once, at most `OTHERS`."""
    judged = [trial for trial in history if trial.score is not None and trial.architecture != architecture]
    best = sorted(judged, key=lambda trial: (-trial.share, -(trial.score or 0.0)))
    return tuple(dict.fromkeys(trial.architecture for trial in best))[:OTHERS]
