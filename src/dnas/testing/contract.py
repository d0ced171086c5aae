"""The contract of a method, as checks that run on every registered one, those of other packages too.

    from dnas import testing

    def test_cooling_meets_the_contract():
        testing.check_method("cooling")

A check is one clause. It raises AssertionError with a sentence that says what is to be changed in the method; errors of
the method itself come through as they are. The searches here have 3 layers and some 32 pictures, and where it is not
the supernet that matters, a `PlantedSupernet` stands for it, or in trials a planted accuracy.

Most checks take

- `name`: of the method, as in `dnas methods`;
- `mapping`: one that it claims; its default unless given;
- `options`: those that keep its search small, e.g. `{"population": 4}` where it judges a thousand architectures by
  default, and settings by the name `search.NAME`.
"""

from __future__ import annotations

from dnas.methods.registry import get_method
from dnas.testing.behaviour import (
    check_cost,
    check_deterministic,
    check_exports,
    check_finds_planted,
    check_resumes,
    check_searches,
    check_survives_failures,
)
from dnas.testing.declaration import check_declaration, check_mappings, check_options, check_schedules
from dnas.testing.record import Acts, Options
from dnas.testing.whole_run import check_pipeline, check_reads_no_test_images

# --- all of it --------------------------------------------------------------------------------------------------

CHECKS_OF_A_METHOD = (check_declaration, check_mappings)
CHECKS_OF_A_SEARCH = (check_reads_no_test_images, check_pipeline)
CHECKS_OF_A_MAPPING = (
    check_searches,
    check_exports,
    check_deterministic,
    check_resumes,
    check_cost,
    check_schedules,
    check_survives_failures,
    check_finds_planted,
)


def check_method(
    name: str, mapping: str | None = None, *, options: Options | None = None, acts: Acts | None = None
) -> None:
    """The whole contract.

    Args:
        mapping: Only under this one; under all that the method claims unless given.
        options: See the module.
        acts: See `check_options`.
    """
    for check in CHECKS_OF_A_METHOD:
        check(name)
    check_options(name, options, acts)
    for check_search in CHECKS_OF_A_SEARCH:
        check_search(name, options)
    for each in (mapping,) if mapping else get_method(name).mappings:
        for check_mapping in CHECKS_OF_A_MAPPING:
            check_mapping(name, each, options)
