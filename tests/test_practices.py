from dataclasses import fields, replace

import pytest

from dnas.study.practices import PRACTICES, StudyFacts, practices

pytestmark = pytest.mark.filterwarnings("error")


# --- the checklist ---


FACTS = StudyFacts(
    methods=4,
    seeds=6,
    training_seeds=1,
    random_baseline=True,
    same_data=True,
    same_space=True,
    same_trainer=True,
    same_machine=True,
    same_versions=True,
    equal_cost=True,
    ablations=2,
    tuned_on_test=False,
    settings_recorded=True,
    versions_recorded=True,
    machine_recorded=True,
    cost_reported=True,
    curves_reported=True,
)


def verdicts(**changes):
    return {practice.key: practice for practice in practices(replace(FACTS, **changes))}


def test_the_checklist_has_its_sixteen_items_in_order():
    found = practices(FACTS)
    assert len(PRACTICES) == 16
    assert [(each.key, each.practice) for each in found] == list(PRACTICES.items())
    assert all(each.why and not each.why.endswith(".") for each in found)
    unknown = {each.key for each in found if each.met is None}
    assert unknown == {"tabular-benchmark", "tuning"} and all(each.met is not False for each in found)


RELEASED = {"training-code", "space-code", "method-code"}
# A fact that is otherwise → the practices that are missed by it alone.
MISSED = [
    ({"seeds": 1}, {"repetitions"}),
    ({"random_baseline": False}, {"random-search"}),
    ({"same_data": False}, {"same-benchmark"}),
    ({"same_space": False}, {"same-benchmark"}),
    ({"same_trainer": False}, {"same-benchmark", "same-protocol"}),
    ({"same_machine": False}, {"confounders"}),
    ({"same_versions": False}, {"confounders"}),
    ({"equal_cost": False}, {"confounders"}),
    ({"ablations": 0}, {"ablation"}),
    ({"tuned_on_test": True}, {"same-protocol"}),
    ({"settings_recorded": False}, {"training-settings", "method-settings", "repetitions", "details"}),
    ({"versions_recorded": False}, {*RELEASED, "details"}),
    ({"machine_recorded": False}, {"details"}),
    ({"cost_reported": False}, {"end-to-end-cost"}),
    ({"curves_reported": False}, {"over-time"}),
    ({"tuning_reported": False}, {"tuning"}),
]


@pytest.mark.parametrize(("changes", "missed"), MISSED, ids=[next(iter(changes)) for changes, _ in MISSED])
def test_a_practice_is_missed_by_its_own_facts_only(changes, missed):
    before, after = verdicts(), verdicts(**changes)
    assert {key for key, each in after.items() if each.met is False} == missed
    assert all(after[key].why != before[key].why for key in missed)


def test_every_fact_decides_something():
    told = {name for changes, _ in MISSED for name in changes} | {
        "methods",
        "training_seeds",
        "outside_methods",
        "found",
    }
    assert told == {field.name for field in fields(StudyFacts)}


def test_the_code_of_others_is_not_claimed_to_be_released():
    found = verdicts(outside_methods=("mine", "theirs"))
    assert found["method-code"].met is None and "mine, theirs" in found["method-code"].why
    assert found["training-code"].met and found["space-code"].met


def test_reasons_name_the_figures():
    found = verdicts(seeds=5, training_seeds=3, methods=7)
    assert "7 methods with 5 search seeds each" in found["repetitions"].why and "3 seeds" in found["repetitions"].why
    assert "1 search seed each" in verdicts(seeds=1)["repetitions"].why
    assert "the machine, the time" in verdicts(same_machine=False, equal_cost=False)["confounders"].why
    assert verdicts(tuning_reported=True)["tuning"].met is True
