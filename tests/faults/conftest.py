import os

import pytest
from faults.harness import TINY, contents, make_images, run_command


def pytest_collection_modifyitems(config, items):
    if not hasattr(os, "fork"):
        for item in items:
            if "faults" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="kills and forks processes, as POSIX has them"))


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of pictures. Not to be changed."""
    return make_images(tmp_path_factory.mktemp("faults") / "images")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, images):
    """What a run that nothing disturbed leaves, by file name."""
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = run_command(folder, "run", "--data", images, *TINY, "--out", folder / "run")
    assert outcome.code == 0, outcome.err
    return contents(folder / "run")
