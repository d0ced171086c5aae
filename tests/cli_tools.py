"""A folder of pictures and a finished run that several tests look at, and how a command refuses: for tests of cli/."""

import pytest
from faults.harness import TINY, invoke, make_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("cli") / "images")


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    """A finished run, not to be changed."""
    out = tmp_path_factory.mktemp("cli-run") / "run"
    outcome = invoke("run", "--data", images, *TINY, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    return out, outcome.json


def refused(tmp_path, *arguments, names):
    """One line, exit 2, nothing on stdout, and no run folder."""
    out = tmp_path / "never"
    more = ("--out", out) if arguments[0] in ("run", "search", "train") and "--out" not in arguments else ()
    outcome = invoke(*arguments, *more)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.lines) == 1 and outcome.err.startswith("error: ")
    assert not out.exists()
    for name in names:
        assert name in outcome.err
