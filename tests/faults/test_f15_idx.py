"""F15. IDX files that are truncated, swapped, of another kind, or do not belong together are refused in one line that names the
file."""

import gzip
import struct

import numpy as np
import pytest
from faults.harness import TINY, invoke

from dnas.data.sources.idx import IDX_FILES

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX_FILES


def idx(array):
    return struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "idx"
    data.mkdir()
    for images, labels, count in ((TRAIN_IMAGES, TRAIN_LABELS, 40), (TEST_IMAGES, TEST_LABELS, 10)):
        (data / images).write_bytes(idx(rng.integers(0, 256, (count, 8, 8)).astype(np.uint8)))
        (data / labels).write_bytes(idx(np.arange(count, dtype=np.uint8) % 2))
    return data


def run(folder):
    return invoke("run", "--data", folder, *TINY, "--quiet", "--out", folder.parent / "run")


def refused(folder, *words):
    outcome = run(folder)
    assert outcome.code == 2 and outcome.out == "", outcome
    assert len(outcome.lines) == 1 and outcome.lines[0].startswith("error: "), outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert not (folder.parent / "run").exists()


def test_whole_files_work(folder):
    assert run(folder).code == 0


@pytest.mark.parametrize("name", IDX_FILES)
@pytest.mark.parametrize("keep", [0, 3, 4, 7, 15, -1])
def test_a_truncated_file(folder, name, keep):
    whole = (folder / name).read_bytes()
    for content in (whole[:keep], gzip.compress(whole)[: keep + 5], gzip.compress(whole[:keep])):
        (folder / name).write_bytes(content)
        refused(folder, name)


@pytest.mark.parametrize(("one", "other"), [(TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)])
def test_swapped_files(folder, one, other):
    contents = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(contents[1])
    (folder / other).write_bytes(contents[0])
    refused(folder, one, "swapped")


@pytest.mark.parametrize(("one", "other"), [(TRAIN_IMAGES, TEST_IMAGES), (TRAIN_LABELS, TEST_LABELS)])
def test_training_and_test_files_mixed_up(folder, one, other):
    (folder / one).write_bytes((folder / other).read_bytes())
    refused(folder, TRAIN_LABELS, "labels for the")


@pytest.mark.parametrize("name", IDX_FILES)
@pytest.mark.parametrize(
    "magic", [b"\x00\x00\x0d\x03", b"\x00\x00\x08\x02", b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"\xff" * 4]
)
def test_another_kind_of_file(folder, name, magic):
    (folder / name).write_bytes(magic + (folder / name).read_bytes()[4:])
    refused(folder, name)


def test_a_file_that_is_missing_and_one_that_is_a_folder(folder):
    (folder / TEST_LABELS).unlink()
    refused(folder, TEST_LABELS)
    (folder / TEST_LABELS).mkdir()
    refused(folder, TEST_LABELS)
