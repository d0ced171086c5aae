"""The checklist of best practices, as far as a study's facts can answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# --- the reporting checklist ---


PRACTICES: Mapping[str, str] = MappingProxyType(
    {
        # Releasing code.
        "training-code": "The code that trains and tests the found architectures is released.",
        "space-code": "The code of the search space is released.",
        "training-settings": "The settings and random seeds of the final training are released.",
        "method-code": "The code of the search methods is released.",
        "method-settings": "The settings and random seeds of the searches are released.",
        # Comparing methods.
        "same-benchmark": (
            "All methods have the same benchmark: data and their split, search space, training code and its settings."
        ),
        "confounders": "What else could make a difference is held equal: hardware, library versions, run time.",
        "ablation": "Ablations show what each part of a method contributes.",
        "same-protocol": "What the methods found is evaluated by one protocol.",
        "over-time": "Methods are compared over the time of their search, not only at its end.",
        "random-search": "Random search is among the methods.",
        "repetitions": "Searches are repeated with several random seeds, which are reported.",
        "tabular-benchmark": "Tabular or surrogate benchmarks are used where a question needs very many searches.",
        # Reporting important details.
        "tuning": "It is reported how hyperparameters were tuned, and what time and resources that took.",
        "end-to-end-cost": "The time of the whole way to the final network is reported, not only that of the search.",
        "details": "All details of the experimental set-up are reported.",
    }
)
"""Key → practice: the items of the NAS best practices checklist (M. Lindauer, F. Hutter: Best Practices for Scientific
Research on Neural Architecture Search, JMLR 21(243), 2020; http://automl.org/nas_checklist.pdf), in our words and their
order."""


@dataclass(frozen=True)
class Practice:
    """An item of the checklist and whether a study follows it."""

    key: str
    practice: str
    met: bool | None
    """None where the practice does not apply, or the study cannot know."""
    why: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What a study knows of itself."""

    methods: int
    """How many it compares."""
    seeds: int
    """Search seeds of every method; of the one that has fewest."""
    training_seeds: int
    """Trainings of every found architecture."""
    random_baseline: bool
    """Whether random search is one of the methods."""
    same_data: bool | None
    """The same images in the same split, for all methods; like the next ones None where runs do not record it."""
    same_space: bool
    same_trainer: bool | None
    """The same final training with the same settings."""
    same_machine: bool | None
    same_versions: bool | None
    """Of dnas and the libraries."""
    equal_cost: bool
    """Whether all searches had the same budget of time."""
    ablations: int
    """Pairs of compared searches that differ in one setting only."""
    tuned_on_test: bool
    """Whether test images chose anything: a setting, or the best of several networks."""
    settings_recorded: bool
    """All settings and seeds."""
    versions_recorded: bool
    machine_recorded: bool
    cost_reported: bool
    """The time of searches and trainings."""
    curves_reported: bool
    """Performance over the time of the searches."""
    tuning_reported: bool | None = None
    """Whether the study's author says how settings were tuned; None where that is not known."""
    outside_methods: tuple[str, ...] = ()
    """Methods whose code is not that of dnas."""
    found: Mapping[str, str] = field(default_factory=dict)
    """What was seen of a part that verdicts name, by its name: what differs, or what is not recorded."""


def practices(facts: StudyFacts) -> list[Practice]:
    """The checklist for a study, in the order of PRACTICES."""
    released = _all("dnas is open source, and its version is recorded", {"the version": facts.versions_recorded})
    searches = f"{facts.methods} methods with {_number(facts.seeds, 'search seed')} each"
    outside = ", ".join(facts.outside_methods)
    verdicts: dict[str, tuple[bool | None, str]] = {
        "training-code": released,
        "space-code": released,
        "training-settings": _all(
            f"the settings and {_number(facts.training_seeds, 'training seed')} are recorded",
            {"the settings and seeds": facts.settings_recorded},
        ),
        "method-code": (
            (None, f"the code of {outside} is not that of dnas, and whether it is released is not known here")
            if outside
            else released
        ),
        "method-settings": _all(
            f"the settings and seeds of {searches} are recorded",
            {"the settings and seeds": facts.settings_recorded},
        ),
        "same-benchmark": _all(
            f"data, split, search space and final training are the same for all {facts.methods} methods",
            {
                "data and split": facts.same_data,
                "the search space": facts.same_space,
                "the final training": facts.same_trainer,
            },
            "not the same for all methods",
            facts.found,
        ),
        "confounders": _all(
            "all runs began on one kind of machine with the same versions"
            + "".join(f" ({facts.found[part]})" for part in ("the machine",) if facts.found.get(part))
            + ", and all searches had the same time",
            {
                "the machine": facts.same_machine,
                "versions": facts.same_versions,
                "the time of a search": facts.equal_cost,
            },
            "not the same for all methods",
            facts.found,
        ),
        "ablation": (
            facts.ablations > 0,
            f"{_number(facts.ablations, 'pair')} of the searches compared differ in one setting only",
        ),
        "same-protocol": _protocol(facts),
        "over-time": (
            facts.curves_reported,
            "performance is reported over the time of the searches"
            if facts.curves_reported
            else "performance is reported at the end of the searches only",
        ),
        "random-search": (
            facts.random_baseline,
            f"random search is {'' if facts.random_baseline else 'not '}one of the {facts.methods} methods",
        ),
        "repetitions": _repeated(facts, searches),
        "tabular-benchmark": (None, "dnas trains networks, and for its spaces of whole networks there is no table"),
        "tuning": (
            facts.tuning_reported,
            {
                None: "a study knows its settings and not how they were chosen: say so beside the results",
                True: "the study's author says how the settings were tuned",
                False: "the study does not say how the settings were tuned",
            }[facts.tuning_reported],
        ),
        "end-to-end-cost": _all(
            "the times of searches and final trainings are reported",
            {"the times of searches and trainings": facts.cost_reported},
            "not reported",
        ),
        "details": _all(
            "settings, seeds, versions and machines are recorded",
            {
                "the settings and seeds": facts.settings_recorded,
                "versions": facts.versions_recorded,
                "the machine": facts.machine_recorded,
            },
        ),
    }
    return [Practice(key, practice, *verdicts[key]) for key, practice in PRACTICES.items()]


def _protocol(facts: StudyFacts) -> tuple[bool | None, str]:
    if facts.same_trainer is False:
        return False, "the final training is not the same for all methods"
    if facts.tuned_on_test:
        return False, "test images chose a setting or a network, so that accuracies on them are too high"
    if facts.same_trainer is None:
        return None, "test images chose nothing, but not every run records its final training"
    return True, "every found architecture had the same training, and test images chose nothing"


def _repeated(facts: StudyFacts, searches: str) -> tuple[bool, str]:
    trained = f"every architecture found was trained with {_number(facts.training_seeds, 'seed')}"
    if facts.seeds < 2:
        return False, f"{searches} do not show how searches vary; {trained}"
    if not facts.settings_recorded:
        return False, f"{searches}, but the seeds are not recorded"
    return True, f"{searches}, and {trained}"


def _all(
    met: str, parts: Mapping[str, bool | None], missed: str = "not recorded", found: Mapping[str, str] | None = None
) -> tuple[bool | None, str]:
    """The verdict on a practice of several parts: met, missed by those that are False, or not known for those None.

    Args:
        found: What was seen of a part, to be told with it.
    """

    def told(verdict: bool | None) -> str:
        parts_of_it = [part for part, given in parts.items() if given is verdict]
        return ", ".join(f"{part} ({found[part]})" if found and found.get(part) else part for part in parts_of_it)

    if told(False):
        return False, f"{missed}: {told(False)}"
    return (None, f"not known: {told(None)}") if told(None) else (True, met)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
