"""Checks of a part: declarations, errors, effect, resuming, costs, and that it keeps no state between searches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import torch

from dnas.errors import InputError
from dnas.kernels import native
from dnas.methods.protocol import GradientMethod
from dnas.methods.registry import create as create_method
from dnas.methods.registry import get_method, list_methods
from dnas.parts.protocol import Part, PartOptions
from dnas.parts.registry import check, create, get_part
from dnas.settings import GradientSettings
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS
from dnas.testing.behaviour import counted, global_state
from dnas.testing.declaration import check_described, check_values_refused, require_acts
from dnas.testing.planted import plant
from dnas.testing.record import REAL, SMALL, Acts, Options, Record, bits, objection, search, tested_method
from dnas.testing.whole_run import check_pipeline

CARRIER = "dnas"  # the method to add the part to, unless a check covers all of them
# Without a warm-up, so that the architecture is updated from the first step.
SIZE = {**REAL, "warmup_epochs": 0, "batch_size": 4}
SHORT = {**SIZE, "epochs": 1}
UPDATES: tuple[Literal["first-order", "second-order", "single-level"], ...] = (
    "first-order", "second-order", "single-level",
)  # fmt: skip


def check_part(
    name: str, mapping: str | None = None, *, options: Options | None = None, acts: Acts | None = None
) -> None:
    """Check the whole contract of a registered part.

    Args:
        mapping: Check only this mapping; by default all.
        options: Options with which it takes effect within two epochs of two steps, if the defaults do not; and settings
            by the name `search.NAME`.
        acts: For each of its options: other options to set, and a value that changes the search.
    """
    for check_whole in CHECKS_OF_A_PART:
        check_whole(name, options)
    check_part_options(name, options, acts)
    for each in (mapping,) if mapping else MAPPINGS:
        for check_mapping in CHECKS_OF_A_PART_UNDER_A_MAPPING:
            check_mapping(name, each, options)


# --- clauses on a part as a whole -------------------------------------------------------------------------------


def check_part_declaration(name: str, options: Options | None = None) -> None:
    """Check that the declarations of a part are complete, and that hooks are defined together with their flags."""
    part = get_part(name)
    assert vars(part).get("name") == name, f"{part.__name__}.name must be {name!r}, the name it is registered by"
    for attribute in ("title", "paper"):
        text = getattr(part, attribute, None)
        assert text and isinstance(text, str), f"{part.__name__}.{attribute} must be a text for `dnas methods --parts`"
    assert issubclass(part.Options, PartOptions), f"{part.__name__}.Options must derive from PartOptions"
    check_described(name, part.Options)
    assert part.updates and set(part.updates) <= set(UPDATES), f"{part.__name__}.updates must be of {UPDATES}"
    hooks = _own_hooks(part)
    for declared, said, hook in (
        (part.compares, "compares = True", "compare"),
        (part.derives, "derives = True", "derive"),
        ("wants_slopes" in hooks, "wants_slopes", "weight_gradients"),
        ("measures" in hooks, "measures", "measure"),
        ("measures" in hooks, "measures", "judged_images"),
    ):
        assert declared == (hook in hooks), f"{part.__name__} must have both {said} and {hook}, or neither"
    if part.compares:
        assert part.updates == ("first-order",), f"{part.__name__} compares two gradients, which requires first-order"


def _own_hooks(part: type[Part]) -> set[str]:
    return {hook for hook in vars(Part) if getattr(part, hook) is not getattr(Part, hook)}


def check_part_refusals(name: str, options: Options | None = None) -> None:
    """Check that a part without effect raises an error that names it: without gradients, or with another update."""
    (part,) = create([name], {name: _own(options)})
    for method_name in list_methods():
        method = create_method(method_name, None, {}, DARTS)
        if not isinstance(method, GradientMethod):
            _refused(part, method, method.Settings(), method_name)
            continue
        for update in UPDATES:
            if update not in part.updates:
                _refused(part, method, GradientSettings.model_validate({"update": update}), update)


def _refused(part: Part, method: Any, settings: Any, because: str) -> None:
    try:
        check([part], method, settings)
    except InputError as error:
        assert part.name in str(error) and because in str(error), f"{error!s:.200} must name {part.name} and {because}"
    else:
        raise AssertionError(f"{part.name} has no effect, but is accepted by {method.name} with {because}")


def check_part_options(name: str, options: Options | None = None, acts: Acts | None = None) -> None:
    """Check that unknown options and wrong types raise errors that name them, and that each option takes effect.

    Args:
        acts: See `check_part`.
    """
    part = get_part(name)
    check_values_refused(name, part.Options, lambda given: create([name], {name: given}), f"{name}.")
    require_acts(name, part.Options, acts or {})
    for option, (around, value) in (acts or {}).items():
        without = {**(options or {}), **around}
        default = without.get(option, part.Options.model_fields[option].default)
        assert value != default, f"acts of {name} must name another value of {option} than {default!r}"
        both = (without, {**without, option: value})
        # First the planted supernet, which is fast.
        for size, planted in ((SMALL, plant(get_method(CARRIER).default_mapping, 0)), (SIZE, None)):
            one, two = (_search(name, given, size=size, planted=planted) for given in both)
            if differs := one.differences(two):
                break
        assert differs, (
            f"option {option}={value!r} of {name} changes nothing of a search with {without}; use the option, refuse "
            "it where it could not act, or name other options around it"
        )


def check_part_in_every_method(name: str, options: Options | None = None) -> None:
    """Check that each gradient-based method finds an architecture with it, or its `check` raises an error naming it."""
    for method_name in list_methods():
        method = create_method(method_name, None, {}, DARTS)
        if not isinstance(method, GradientMethod):
            continue
        try:
            record = _search(name, options, method=method_name, size=SHORT, planted=plant(method.mapping_name, 0))
        except InputError as error:
            assert name in str(error), f"the error for {name} with {method_name} must name it: {error}"
            continue
        problem = objection(record.found.architecture, record.method)
        assert problem is None, f"the architecture that {method_name} with {name} finds {problem}"


def check_part_keeps_nothing(name: str, options: Options | None = None) -> None:
    """Check that one object can be used in two searches: state belongs to the search (`Part.begin`)."""
    taken = create([name], {name: _own(options)})
    one, two = (_search(name, options, taken=taken, size=SHORT) for _ in range(2))
    assert not one.differences(two), (
        f"the same object of {name} makes another search the second time: {one.differences(two)}; keep nothing in "
        "the part, but in the tensors that `begin` gives"
    )


def check_part_backends(name: str, options: Options | None = None) -> None:
    """Check that it takes effect with compiled kernels and with torch, with equal weights after the first step.

    The weights must be equal up to rounding.
    """
    if not native.available():
        return
    weights_first = {**(options or {}), "search.order": "weights-first"}
    records = []
    for only in (True, False):
        with native.only_torch() if only else torch.enable_grad():
            records.append(_search(name, weights_first, size=SHORT))
    for record in records:
        problem = objection(record.found.architecture, record.method)
        assert problem is None, f"the architecture that {CARRIER} with {name} finds {problem}"
    one, two = (record.session.checkpoints[0].tensors for record in records)
    for key in (key for key in one if key.startswith("supernet.")):
        apart = float((one[key].double() - two[key].double()).abs().max())
        assert apart < 1e-3, f"{name}: after one step {key} differs by {apart:.2g} between backend native and torch"


def check_part_in_a_run(name: str, options: Options | None = None) -> None:
    """Check that an interrupted and resumed run with it writes the same bytes (`check_pipeline`)."""
    settings = {**_carrying(name), **_of_search(options), "search.warmup_epochs": 0}
    check_pipeline(CARRIER, settings, {name: _own(options)})


# --- clauses on a part under a mapping --------------------------------------------------------------------------


def check_part_acts(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that it changes a search, and that its result, costs and metrics are valid.

    The search must find an architecture of the space and report the cost counted at the networks. The names of metrics
    must start with that of the part.
    """
    with counted() as count:
        record = _search(name, options, mapping)
    problem = objection(record.found.architecture, record.method)
    assert problem is None, f"the architecture that {CARRIER} with {name} finds {problem}"
    assert record.found.architecture.origin.get("with") == [name]
    settings = {**_carrying(name), **_of_search(options)}
    plain = _plain(mapping or get_method(CARRIER).default_mapping, _measures(name), tuple(settings.items()))
    assert _differ(plain, record), f"{name} changes nothing of a search under --mapping {mapping} with {options}"
    cost, expected = record.found.cost["step_equivalents"], count.images / SIZE["batch_size"]
    assert abs(cost - expected) < 1e-6 * expected, (
        f"a search with {name} reports a cost of {cost:.3f} forward and backward passes, but the networks computed "
        f"{expected:.3f}"
    )
    said, known = ({key for line in each.session.metrics for key in json.loads(line)} for each in (record, plain))
    for key in said - known:
        assert key.startswith(f"{name}."), f"{name} writes {key!r} into metrics.jsonl; begin it with {name!r} and a dot"


def check_part_resumes(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that new objects resume bit for bit from checkpoints of its steps and measurements.

    Global random states must not matter.
    """
    with global_state(1, name):
        whole = _search(name, options, mapping)
    checkpoints = whole.session.checkpoints
    for start in (checkpoints[len(checkpoints) // 2], checkpoints[-2]):
        with global_state(2, name):
            again = _search(name, options, mapping, start=start)
        differing = whole.differences(again)
        assert not differing, (
            f"resumed from its checkpoint of step {start.state['step']}, a search with {name} comes to another end: "
            f"{differing}; what is learnt belongs into the tensors that `begin` gives, changed in place, and draws "
            "come from the seed alone"
        )


CHECKS_OF_A_PART = (
    check_part_declaration,
    check_part_refusals,
    check_part_keeps_nothing,
    check_part_in_every_method,
    check_part_backends,
    check_part_in_a_run,
)
CHECKS_OF_A_PART_UNDER_A_MAPPING = (check_part_acts, check_part_resumes)


# --- searches with a part ---------------------------------------------------------------------------------------


def _own(options: Options | None) -> dict[str, Any]:
    """Return the options of the part itself."""
    return {key: value for key, value in (options or {}).items() if not key.startswith("search.")}


def _of_search(options: Options | None) -> dict[str, Any]:
    """Return the settings of the search among the options."""
    return {key: value for key, value in (options or {}).items() if key.startswith("search.")}


def _measures(name: str) -> bool:
    """Return True if a part evaluates the supernet hundreds of times."""
    return "measures" in _own_hooks(get_part(name))


def _carrying(name: str, method: str = CARRIER) -> dict[str, Any]:
    """Return the settings that a search needs to use a part."""
    own = tested_method(method, None, None, SIZE)[1].get("update", UPDATES[0])
    part = get_part(name)
    return {"search.update": own if own in part.updates else part.updates[0]}


def _search(
    name: str,
    options: Options | None,
    mapping: str | None = None,
    *,
    method: str = CARRIER,
    taken: tuple[Part, ...] | None = None,
    size: Mapping[str, Any] = SIZE,
    planted: Architecture | Literal["auto"] | None = "auto",
    **others: Any,
) -> Record:
    """Search with the part, with a planted supernet if it evaluates the supernet hundreds of times."""
    if planted == "auto":
        planted = plant(mapping or get_method(method).default_mapping, 0) if _measures(name) else None
    taken = create([name], {name: _own(options)}) if taken is None else taken
    given = {**_carrying(name, method), **_of_search(options)}
    return search(method, mapping, given, size=size, planted=planted, with_parts=taken, **others)


@cache
def _plain(mapping: str, planted: bool, settings: tuple[tuple[str, Any], ...]) -> Record:
    """Return the same search without a part, cached for all parts."""
    return search(CARRIER, mapping, dict(settings), size=SIZE, planted=plant(mapping, 0) if planted else None)


def _differ(one: Record, two: Record) -> bool:
    """Return True if the layers of two searched architectures differ, or tensors that both searches have."""
    a, b = (bits(record.session.checkpoints[-2].tensors) for record in (one, two))
    learnt = any(a[key] != b[key] for key in a.keys() & b.keys())
    return learnt or one.found.architecture.layers != two.found.architecture.layers
