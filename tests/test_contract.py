"""Every registered method keeps the contract of `dnas.testing`, under every mapping that it claims.

What belongs to a method lies in `tests/test_method_NAME.py`:

- `ACTS`: for every option (options around it, a value with which a search is another one);
- `SMALL`: options that keep its searches small, where the defaults do not; and settings as `search.NAME`;
- `LEARNS`: the same for the search of a planted architecture, which must have time to learn; `SMALL` unless given.
"""

from importlib import import_module
from pathlib import Path

import pytest

from dnas import testing
from dnas.methods.registry import get_method, list_methods

METHODS = list_methods()
PLANTED = testing.check_finds_planted
# Whose planted search takes a third of a minute; under the other mapping it is always run.
LONG = {("enas", "full"), ("nasnet", "full")}
PAIRS = [(name, mapping) for name in METHODS for mapping in get_method(name).mappings]


def table(name, *tables, kind="method"):
    """The first of these tables that the tests of a method have, or of another kind of thing."""
    module = f"test_{kind}_{name.replace('-', '_')}"
    if not (Path(__file__).parent / f"{module}.py").exists():
        return {}
    return next((found for found in (getattr(import_module(module), table, None) for table in tables) if found), {})


def identifier(value):
    return getattr(value, "__name__", value)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", testing.CHECKS_OF_A_METHOD, ids=identifier)
def test_method(check, name):
    check(name)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", testing.CHECKS_OF_A_SEARCH, ids=identifier)
def test_search(check, name):
    check(name, table(name, "SMALL"))


@pytest.mark.parametrize(
    ("check", "name", "mapping"),
    [
        pytest.param(check, *pair, marks=[pytest.mark.full] if pair in LONG and check is PLANTED else [])
        for check in testing.CHECKS_OF_A_MAPPING
        for pair in PAIRS
    ],
    ids=identifier,
)
def test_mapping(check, name, mapping):
    check(name, mapping, table(name, "LEARNS", "SMALL") if check is PLANTED else table(name, "SMALL"))


@pytest.mark.parametrize("name", METHODS)
def test_options(name):
    acts = table(name, "ACTS")
    # Of its own, so that nothing is taken for granted that dnas would know of options that are inherited.
    assert set(acts) == set(get_method(name).Options.model_fields)
    testing.check_options(name, table(name, "SMALL"), acts)
