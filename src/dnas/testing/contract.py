"""All checks of a method, in order."""

from __future__ import annotations

from dnas.methods.registry import get_method
from dnas.testing.behaviour import (
    check_cost,
    check_deterministic,
    check_exports,
    check_finds_planted,
    check_limits,
    check_resumes,
    check_searches,
    check_survives_failures,
)
from dnas.testing.declaration import check_declaration, check_mappings, check_options, check_schedules
from dnas.testing.record import Acts, Options
from dnas.testing.whole_run import check_pipeline, check_reads_no_test_images

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
    check_limits,
    check_finds_planted,
)


def check_method(
    name: str, mapping: str | None = None, *, options: Options | None = None, acts: Acts | None = None
) -> None:
    """Check the whole contract of a method.

    Args:
        mapping: Check only this mapping; by default all that the method supports.
        options: See `dnas.testing`.
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
