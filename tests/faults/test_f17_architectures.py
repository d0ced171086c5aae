"""F17. An architecture file of random JSON, deep nesting, wrong operations, edges to the future, doubled edges or 10⁶ layers ends with
2 and one line, within a second of the processor's time and in bounded memory."""

import copy
import json
import time
import tracemalloc

import pytest
from faults.harness import in_depth, invoke
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnas.space.published import load_published

VALID = load_published("DARTS_V2", 4).to_json()
many = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shown(tmp_path, content):
    """Whether it is an architecture; if not, it was refused as it should be."""
    path = tmp_path / "architecture.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode(errors="surrogatepass"))
    tracemalloc.start()
    began = time.process_time()
    try:
        outcome = invoke("show", path, "--json")
        seconds, memory = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # An empty object is 3 bytes of text and 72 of memory. A file of more than 16 MiB is not read.
    assert memory < 2**25 + 25 * min(2**24, path.stat().st_size)
    if outcome.code == 0:
        return True
    # Tracing takes most of the time.
    assert seconds < 5
    assert outcome.code == 2 and outcome.out == "", outcome
    assert len(outcome.lines) == 1 and str(path) in outcome.err and len(outcome.err) < 1000, outcome.err
    return False


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["format", "layers", "nodes", "reductions", "space", "origin", "x"]), inner)
    ),
    max_leaves=12,
)


@many
@given(json_values)
def test_random_json(tmp_path, value):
    assert not shown(tmp_path, value)


def places(value, path=()):
    """The paths of all parts of a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    if isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


PLACES = [place for place in places(VALID) if place and place[0] != "origin"]


def changed(place, value):
    copied = copy.deepcopy(VALID)
    inner = copied
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copied


others = json_values | st.sampled_from(["conv_9x9", "none", -1, 99, 2**70, [["skip_connect", 0]] * 2])


@many
@given(st.sampled_from(PLACES), others)
def test_a_valid_file_with_one_other_part(tmp_path, place, value):
    accepted = shown(tmp_path, changed(place, value))
    if accepted:
        # An edge from another earlier node, another operation, or another place for a reduction: all say what they are.
        assert isinstance(value, int | str | list) and place[0] in ("layers", "reductions", "space")


test_random_json_in_depth = in_depth(test_random_json, 6_000, json_values)
test_a_valid_file_with_one_other_part_in_depth = in_depth(
    test_a_valid_file_with_one_other_part, 6_000, st.sampled_from(PLACES), others
)


def test_what_a_valid_file_says_is_accepted(tmp_path):
    assert shown(tmp_path, VALID)


@pytest.mark.parametrize(
    "content",
    [
        changed(("layers", 0, "nodes", 0, 0), ["sep_conv_3x3", 2]),
        changed(("layers", 1, "nodes", 3, 1), ["sep_conv_3x3", 5]),
        changed(("layers", 1, "nodes", 1), [["skip_connect", 0]] * 2),
        changed(("layers", 1, "nodes", 1, 0), ["none", 0]),
        changed(("layers", 2, "nodes", 0, 0, 0), "sep_conv_3x3\n"),
        changed(("layers",), []),
        changed(("layers",), [{}] * 1_000_000),
        changed(("layers",), [0] * 1_000_000),
        b"[" * 1_000_000,
        b'{"layers":' * 100_000,
        b'{"format": ' + b"9" * 1_000_000 + b"}",
        b'{"format": "dnas-architecture/1", "format": 1}',
        b"",
        b"\xef\xbb\xbf{}",
        b"\x80\x04N.",
        b" " * (17 * 2**20),
    ],
    ids=range(16),
)
def test_hostile_files(tmp_path, content):
    assert not shown(tmp_path, content)
