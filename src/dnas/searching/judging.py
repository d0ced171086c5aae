"""Evaluation of candidates and results of a search, shared by searches with a supernet and by trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from dnas.methods.protocol import Candidate, Method, Trial
from dnas.runtime.names import SEARCH_STAGE
from dnas.space.architecture import Architecture

STAGE = SEARCH_STAGE
# A backward pass costs two forward passes: one set of products for the gradients of the inputs, one for those of the
# weights.
FORWARD = 1 / 3

OTHERS = 2  # second choices that a search returns
# Images evaluated at once with the statistics of their own batch.
JUDGED_AT_ONCE = 256


@dataclass(frozen=True)
class Answer:
    """The result of a search within limits.

    Attributes:
        architecture: The searched architecture.
        others: Second choices: the next best evaluated candidates, or samples from the learned distribution.
        validation_accuracy: The accuracy of the architecture if the search evaluated it, in a trial or with the
            weights of the supernet.
    """

    architecture: Architecture
    others: tuple[Architecture, ...] = ()
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Found:
    """The complete outcome of a search.

    Attributes:
        answers: One per value if a limit has several; the last is the searched architecture.
        parameters: The architecture parameters behind it; empty if there are none.
        cost: `step_equivalents`: the computation, in forward and backward passes of one batch (a forward pass counts
            as a third); `architectures_evaluated`: the number of architectures evaluated one by one.
        history: All candidates evaluated one by one.
        signal: Whether the result of a gradient-based search differs from noise (`watch.signal`).
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
    """Return the answers of a search: one for each value of a limit that has several, otherwise one.

    Args:
        history: All candidates evaluated one by one.
        answer: Called with the candidates within the current limits, or with all if none of those has a score.
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
    """Evaluate the candidates that a method proposes, until it proposes none or the budget is spent.

    Args:
        known: The scores of the first candidates, from an earlier invocation: they are proposed, but not evaluated.
        judge: Number of the first candidate and candidates → their scores in order; fewer scores end the search.
        limit: The maximum number of candidates.
        finalists: Candidates to evaluate before any is proposed.
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
        # If the budget is spent or the limit is reached, there are fewer scores than candidates.
        history += [Trial(c.architecture, score, c.share) for c, score in zip(candidates, scores, strict=False)]
        if len(scores) < len(candidates):
            break
    return history


def _in_turn(method: Method, number: int, architecture: Architecture) -> Architecture:
    """Return a candidate within the limits. If a limit has several values, candidates follow each of them in turn."""
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
    """Evaluate candidates as `judged_in_rounds` does, one after another.

    `judge` takes a number and a candidate, and `enough` returns True to end before the next; at least one is evaluated.
    """

    def one_by_one(first: int, candidates: Sequence[Candidate]) -> Iterator[float | None]:
        for number, candidate in enumerate(candidates, first):
            if number > 0 and enough():
                return
            yield judge(number, candidate)

    return judged_in_rounds(method, layers, seed, known, one_by_one, limit, finalists)


def score_of(architecture: Architecture, history: Sequence[Trial]) -> float | None:
    """Return the score of an architecture on the largest share of images; None if it was not evaluated."""
    known = [trial for trial in history if trial.architecture == architecture and trial.score is not None]
    return max(known, key=lambda trial: trial.share).score if known else None


def next_best(architecture: Architecture, history: Sequence[Trial]) -> tuple[Architecture, ...]:
    """Return the next best evaluated architectures without duplicates, at most `OTHERS`."""
    judged = [trial for trial in history if trial.score is not None and trial.architecture != architecture]
    best = sorted(judged, key=lambda trial: (-trial.share, -(trial.score or 0.0)))
    return tuple(dict.fromkeys(trial.architecture for trial in best))[:OTHERS]
