"""The checklist of best practices, answered as far as the facts of a study allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# --- the reporting checklist ---


PRACTICES: Mapping[str, str] = MappingProxyType(
    {
        # Releasing code.
        "training-code": "The code that trains and tests the searched architectures is released.",
        "space-code": "The code of the search space is released.",
        "training-settings": "The settings and random seeds of the final training are released.",
        "method-code": "The code of the search methods is released.",
        "method-settings": "The settings and random seeds of the searches are released.",
        # Comparing methods.
        "same-benchmark": (
            "All methods have the same benchmark: data and their split, search space, training code and its settings."
        ),
        "confounders": "Other possible confounders are held equal: hardware, library versions, run time.",
        "ablation": "Ablations show what each part of a method contributes.",
        "same-protocol": "The searched networks of all methods are evaluated by the same protocol.",
        "over-time": "Methods are compared over the time of their searches, not only at the end.",
        "random-search": "Random search is among the methods.",
        "repetitions": "Searches are repeated with several random seeds, which are reported.",
        "tabular-benchmark": "Tabular or surrogate benchmarks are used if a question needs very many searches.",
        # Reporting important details.
        "tuning": "The report states how hyperparameters were tuned, and the time and resources for it.",
        "end-to-end-cost": "The time of all steps to the final network is reported, not only that of the search.",
        "details": "All details of the experimental setup are reported.",
    }
)
"""Key → practice: the items of the NAS best practices checklist (M. Lindauer, F. Hutter: Best Practices for Scientific
Research on Neural Architecture Search, JMLR 21(243), 2020; http://automl.org/nas_checklist.pdf), paraphrased in the
original order."""


@dataclass(frozen=True)
class Practice:
    """An item of the checklist and whether a study follows it."""

    key: str
    practice: str
    met: bool | None
    """None if the practice does not apply, or the study has no information on it."""
    why: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """The facts that a study records about itself."""

    methods: int
    """The number of compared methods."""
    seeds: int
    """Search seeds of the method with the fewest."""
    training_seeds: int
    """Trainings per searched architecture."""
    random_baseline: bool
    """True if random search is one of the methods."""
    same_data: bool | None
    """True if all methods have the same images in the same split; this and the next ones: None if not recorded."""
    same_space: bool
    same_trainer: bool | None
    """True if the final trainings have the same settings."""
    same_machine: bool | None
    same_versions: bool | None
    """The versions of dnas and the libraries."""
    equal_cost: bool
    """True if all searches had the same time budget."""
    ablations: int
    """Pairs of compared searches that differ in a single setting."""
    tuned_on_test: bool
    """True if test images were used to choose a setting, or the best of several networks."""
    settings_recorded: bool
    """All settings and seeds."""
    versions_recorded: bool
    machine_recorded: bool
    cost_reported: bool
    """The time of searches and trainings."""
    curves_reported: bool
    """Performance over the time of the searches."""
    tuning_reported: bool | None = None
    """True if the author of the study states how settings were tuned; None if that is not known."""
    outside_methods: tuple[str, ...] = ()
    """Methods that are not part of dnas."""
    found: Mapping[str, str] = field(default_factory=dict)
    """Observations by the name that verdicts use: differences, or missing records."""


def practices(facts: StudyFacts) -> list[Practice]:
    """Return the checklist for a study, in the order of PRACTICES."""
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
            (None, f"the code of {outside} is not part of dnas, and this study does not record if it is released")
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
            "all runs started on one kind of machine with the same versions"
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
        "tabular-benchmark": (
            None,
            "dnas trains networks, and there is no tabular benchmark for its spaces of whole networks",
        ),
        "tuning": (
            facts.tuning_reported,
            {
                None: "a study records its settings but not how they were chosen: describe that with the results",
                True: "the author of the study describes how the settings were tuned",
                False: "the study does not describe how the settings were tuned",
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
        return False, "test images were used to choose a setting or a network, so test accuracies are too high"
    if facts.same_trainer is None:
        return None, "test images were not used for any choice, but not every run records its final training"
    return True, "all searched architectures had the same training, and test images were not used for any choice"


def _repeated(facts: StudyFacts, searches: str) -> tuple[bool, str]:
    trained = f"every searched architecture was trained with {_number(facts.training_seeds, 'seed')}"
    if facts.seeds < 2:
        return False, f"{searches} do not show how searches vary; {trained}"
    if not facts.settings_recorded:
        return False, f"{searches}, but the seeds are not recorded"
    return True, f"{searches}, and {trained}"


def _all(
    met: str, parts: Mapping[str, bool | None], missed: str = "not recorded", found: Mapping[str, str] | None = None
) -> tuple[bool | None, str]:
    """Return the verdict on a practice of several parts: met, missed if any is False, or not known if any is None.

    Args:
        found: Observations to report, by part.
    """

    def told(verdict: bool | None) -> str:
        parts_of_it = [part for part, given in parts.items() if given is verdict]
        return ", ".join(f"{part} ({found[part]})" if found and found.get(part) else part for part in parts_of_it)

    if told(False):
        return False, f"{missed}: {told(False)}"
    return (None, f"not known: {told(None)}") if told(None) else (True, met)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
