"""Contracts of methods, parts and other extensions, as checks that run on any of them by name.

    from dnas import testing

    def test_cooling_meets_the_contract():
        testing.check_method("cooling")

    def test_decided_meets_the_contract():
        testing.check_part("decided", acts={"weight": ({}, 50.0)})

Each check covers one clause. It raises AssertionError with a message on what to change in the method; errors of the
method itself are passed through. The searches here have 3 layers and about 32 images. If the supernet does not matter,
it is replaced by a `PlantedSupernet`, or in trials by a planted accuracy.

Most checks take

- `name`: the name of the method, as in `dnas methods`;
- `mapping`: a mapping that it supports; by default that of the method;
- `options`: options that keep its search small, e.g. `{"population": 4}` if it evaluates a thousand architectures by
  default, and settings by the name `search.NAME`.

`check_primitive`, `check_space`, `check_relaxation` and `check_source` are the contracts of primitives, search spaces,
relaxations and kinds of data sets.
"""

from dnas.testing.behaviour import check_cost as check_cost
from dnas.testing.behaviour import check_deterministic as check_deterministic
from dnas.testing.behaviour import check_exports as check_exports
from dnas.testing.behaviour import check_finds_planted as check_finds_planted
from dnas.testing.behaviour import check_limits as check_limits
from dnas.testing.behaviour import check_resumes as check_resumes
from dnas.testing.behaviour import check_searches as check_searches
from dnas.testing.behaviour import check_survives_failures as check_survives_failures
from dnas.testing.contract import CHECKS_OF_A_MAPPING as CHECKS_OF_A_MAPPING
from dnas.testing.contract import CHECKS_OF_A_METHOD as CHECKS_OF_A_METHOD
from dnas.testing.contract import CHECKS_OF_A_SEARCH as CHECKS_OF_A_SEARCH
from dnas.testing.contract import check_method as check_method
from dnas.testing.declaration import check_declaration as check_declaration
from dnas.testing.declaration import check_mappings as check_mappings
from dnas.testing.declaration import check_option_acts as check_option_acts
from dnas.testing.declaration import check_options as check_options
from dnas.testing.declaration import check_schedules as check_schedules
from dnas.testing.parts import CHECKS_OF_A_PART as CHECKS_OF_A_PART
from dnas.testing.parts import CHECKS_OF_A_PART_UNDER_A_MAPPING as CHECKS_OF_A_PART_UNDER_A_MAPPING
from dnas.testing.parts import check_part as check_part
from dnas.testing.parts import check_part_acts as check_part_acts
from dnas.testing.parts import check_part_backends as check_part_backends
from dnas.testing.parts import check_part_declaration as check_part_declaration
from dnas.testing.parts import check_part_in_a_run as check_part_in_a_run
from dnas.testing.parts import check_part_in_every_method as check_part_in_every_method
from dnas.testing.parts import check_part_keeps_nothing as check_part_keeps_nothing
from dnas.testing.parts import check_part_options as check_part_options
from dnas.testing.parts import check_part_refusals as check_part_refusals
from dnas.testing.parts import check_part_resumes as check_part_resumes
from dnas.testing.planted import CLASSES as CLASSES
from dnas.testing.planted import LAYERS as LAYERS
from dnas.testing.planted import SIDE as SIDE
from dnas.testing.planted import PlantedSupernet as PlantedSupernet
from dnas.testing.planted import agreement as agreement
from dnas.testing.planted import agreement_by_chance as agreement_by_chance
from dnas.testing.planted import pictures as pictures
from dnas.testing.planted import plant as plant
from dnas.testing.planted import slots as slots
from dnas.testing.primitives import CHECKS_OF_A_PRIMITIVE as CHECKS_OF_A_PRIMITIVE
from dnas.testing.primitives import check_primitive as check_primitive
from dnas.testing.record import LONG as LONG
from dnas.testing.record import REAL as REAL
from dnas.testing.record import SMALL as SMALL
from dnas.testing.record import Acts as Acts
from dnas.testing.record import Options as Options
from dnas.testing.record import Record as Record
from dnas.testing.record import Recorder as Recorder
from dnas.testing.record import search as search
from dnas.testing.relaxations import check_relaxation as check_relaxation
from dnas.testing.sources import check_source as check_source
from dnas.testing.spaces import CHECKS_OF_A_SPACE as CHECKS_OF_A_SPACE
from dnas.testing.spaces import check_space as check_space
from dnas.testing.whole_run import check_pipeline as check_pipeline
from dnas.testing.whole_run import check_reads_no_test_images as check_reads_no_test_images
