"""A run keeps what it trained on: a digest of each training image."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from faults.harness import TINY, invoke, make_images, run_command, send_at
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dnas
from dnas.data import index as index_module
from dnas.data.index import Index, _Content
from dnas.data.pictures import image_digests
from dnas.data.splits import load_test, load_train
from dnas.pipeline.training_images import TRAINING_IMAGES_FILE, TrainingImages, read_training_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("training images") / "images", each=8)


@given(arrays(np.uint8, st.tuples(st.integers(0, 5), st.sampled_from([1, 3]), st.just(3), st.just(3))))
def test_a_digest_is_blake2b_of_the_pixels(images: np.ndarray) -> None:
    expected = [int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little", signed=True)
                for image in images]  # fmt: skip
    assert image_digests(images).tolist() == expected
    # Whatever the order in memory.
    assert image_digests(np.asfortranarray(images)).tolist() == expected


def test_a_record_comes_back(images: Path, tmp_path: Path) -> None:
    split, info = load_train(str(images))
    record = TrainingImages.of(split, info)
    assert record.digests.dtype == np.int64 and record.digests.shape == (len(split),)
    data = record.to_bytes()
    assert data == TrainingImages.of(split, info).to_bytes()
    (tmp_path / TRAINING_IMAGES_FILE).write_bytes(data)
    again = read_training_images(tmp_path)
    assert again is not None and np.array_equal(again.digests, record.digests)
    assert (again.info, again.pillow) == (info, PIL.__version__)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    facts = json.loads(header["dnas"])
    assert (facts["size"], facts["channels"], facts["pillow"]) == (8, 1, PIL.__version__) and "BLAKE2b" in facts["hash"]
    assert again.among(split.digests()).all()
    assert not again.among(load_test(str(images), info).digests()).any()


@pytest.mark.parametrize("data", [b"", b"{}", b"\0" * 100])
def test_a_damaged_record_is_named(images: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / TRAINING_IMAGES_FILE).write_bytes(data)
    with pytest.raises(dnas.InputError, match=TRAINING_IMAGES_FILE) as caught:
        read_training_images(tmp_path)
    assert "\n" not in str(caught.value)
    assert read_training_images(tmp_path / "nowhere") is None


@pytest.mark.parametrize("command", ["run", "search", "train"])
def test_every_command_writes_it_when_it_begins(images: Path, tmp_path: Path, command: str) -> None:
    """The whole training split, though a search uses few images of it; stopped at its first step."""
    what = ["DARTS_V2"] if command == "train" else []
    stage = "train" if command == "train" else "search"
    limit = [] if command == "train" else ["-o", "search.images=8"]
    arguments = (command, *what, "--data", images, *TINY[:-1], 4, *limit, "--out", tmp_path / "run")
    outcome = run_command(tmp_path, *arguments, fault=send_at(stage, 1, signal.SIGTERM))
    assert outcome.code == 143, outcome.err
    record = read_training_images(tmp_path / "run")
    split, info = load_train(str(images))
    assert record is not None and np.array_equal(record.digests, split.digests()) and record.info == info
    # A run of before has none; going on with it writes it.
    (tmp_path / "run" / TRAINING_IMAGES_FILE).unlink()
    assert invoke("resume", tmp_path / "run").code == 0
    record = read_training_images(tmp_path / "run")
    assert record is not None and np.array_equal(record.digests, split.digests())


# --- streamed images


def test_streamed_images_have_the_digests_of_images_in_memory(images: Path) -> None:
    held, _ = load_train(str(images), memory="whole")
    streamed, _ = load_train(str(images), memory="stream", workers=1)
    assert np.array_equal(held.digests(), streamed.digests())
    some = torch.tensor([5, 0, 3])
    for split in (held, streamed):
        assert np.array_equal(split.subset(some).digests(), held.digests()[[5, 0, 3]])
        assert np.array_equal(split.to("cpu").digests(), held.digests())


def test_the_index_keeps_them_and_no_picture_is_read_twice(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    original = Index._counted

    def counted(self, digests, *rest):  # type: ignore[no-untyped-def]
        looked.append(len(digests))
        return original(self, digests, *rest)

    monkeypatch.setattr(Index, "_counted", counted)

    def load() -> np.ndarray:
        return load_train(str(images), data_dir=str(tmp_path), memory="stream", workers=1)[0].digests()

    first, again = load(), load()
    assert np.array_equal(first, again) and looked == [2, 0]
    # An index of before has none, so its groups are looked at again; so is one whose digests are cut short.
    [path] = (tmp_path / "index").iterdir()
    for change in ("absent", "short"):
        content = _Content.model_validate_json(path.read_bytes().partition(b"\n")[2])
        group = next(iter(content.groups.values()))
        for key in list(group.digests):
            if change == "absent":
                del group.digests[key]
            else:
                group.digests[key] = group.digests[key][:-4]
        text = content.model_dump_json().encode()
        path.write_bytes(index_module._checksum(text) + b"\n" + text)
        assert np.array_equal(load(), first) and looked[-1] == 1
    shutil.rmtree(tmp_path / "index")
