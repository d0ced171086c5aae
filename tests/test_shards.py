"""Tables of Hugging Face: parquet and arrow shards, by the names of files and folders; their image folders."""

from __future__ import annotations

import builtins
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_tools import no_network, picture, random_bytes, refused, two_classes, write  # noqa: F401
from faults.harness import TINY, contents, invoke, make_images
from PIL import Image
from source_tools import one, same, zipped

from dnas.data.inspection import inspect_data
from dnas.data.sources.protocol import Columns
from dnas.data.splits import fingerprint, load_splits, load_train

pa = pytest.importorskip("pyarrow", reason="needs dnas[hf]")
import pyarrow.parquet as pq  # noqa: E402

NAMES = ["ant", "bee", "cat"]


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_bytes(8, 8, 3, seed=seed)).save(stream, "PNG")
    return stream.getvalue()


def table(labels: list, first: int = 0, names: list[str] | None = None, **columns: list) -> pa.Table:
    """As `datasets` writes it: image {bytes, path}, label, and the features in the schema."""
    images = [{"bytes": png(first + k), "path": f"{first + k}.png"} for k in range(len(labels))]
    found = pa.table({"image": images, "label": labels, **columns})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return found


def arrow(path: Path, content: pa.Table, form: str = "stream") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, getattr(pa.ipc, f"new_{form}")(sink, content.schema) as writer:
        writer.write_table(content)


def parquet(path: Path, content: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)
    return path


TRAIN, TEST = [k % 3 for k in range(9)], [2, 1, 0]


def hub(root: Path) -> Path:
    """The layout of the Hub: data/ with numbered shards."""
    parquet(root / "data" / "train-00000-of-00002.parquet", table(TRAIN[:5], 0, NAMES))
    parquet(root / "data" / "train-00001-of-00002-0123abcd.parquet", table(TRAIN[5:], 5, NAMES))
    parquet(root / "data" / "test-00000-of-00001.parquet", table(TEST, 9, NAMES))
    return root


def saved(root: Path, form: str = "stream") -> Path:
    """What save_to_disk leaves."""
    arrow(root / "train" / "data-00000-of-00001.arrow", table(TRAIN, 0, NAMES), form)
    arrow(root / "test" / "data-00000-of-00001.arrow", table(TEST, 9, NAMES), form)
    for part in ("train", "test"):
        write(root / part / "state.json", b"{}")
    write(root / "dataset_dict.json", b"{}")
    return root


def files(root: Path) -> Path:
    """The same images in class folders, whose order is that of the rows within each class."""
    for part, labels, first in (("train", TRAIN, 0), ("test", TEST, 9)):
        for k, label in enumerate(labels):
            write(root / part / NAMES[label] / f"{k}.png", png(first + k))
    return root


@pytest.mark.parametrize("make", [hub, saved, lambda root: saved(root, "file")], ids=["hub", "stream", "file"])
def test_shards_hold_the_images_of_class_folders(tmp_path, make):
    found, expected = one(make(tmp_path / "shards")), one(files(tmp_path / "files"))
    assert found.classes == expected.classes == tuple(NAMES)
    for k in range(2):
        order = np.argsort(found.labels[k], kind="stable")
        assert np.array_equal(np.array(found.labels[k])[order], expected.labels[k])
        assert np.array_equal(found.images[k][order], expected.images[k])


def test_the_same_in_an_archive(tmp_path):
    same(one(zipped(hub(tmp_path / "x"), tmp_path / "x.zip", "top/")), one(tmp_path / "x"))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.parquet", "test.parquet"), ("train-0001.parquet", "validation-0001.parquet"),
        ("train/0000.parquet", "test/0000.parquet"), ("train/0.parquet", "val/0.parquet"),
        ("data/train.parquet", "data/eval.parquet"), ("Train/part-0.PARQUET", "Test/part-0.PARQUET"),
    ],
)  # fmt: skip
def test_splits_by_names(tmp_path, train, test):
    parquet(tmp_path / "x" / train, table(TRAIN, 0, NAMES))
    parquet(tmp_path / "x" / test, table(TEST, 9, NAMES))
    assert [len(labels) for labels in one(tmp_path / "x").labels] == [9, 3]


def test_validation_beside_test_and_a_test_without_labels(tmp_path):
    root = hub(tmp_path / "x")
    parquet(root / "data" / "validation-00000-of-00001.parquet", table([0, 1], 20, NAMES))
    found = one(root)
    assert [len(labels) for labels in found.labels] == [9, 3]
    assert found.left_out[0].startswith("validation images in 'data/validation-00000-of-00001.parquet' (2 images)")
    parquet(root / "data" / "test-00000-of-00001.parquet", table([-1] * 4, 9, NAMES))
    found = one(root)
    assert [len(labels) for labels in found.labels] == [9, 2]
    assert found.left_out[0] == "images without class folders in 'data/test-00000-of-00001.parquet' (4 images)"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([10, 9, 10, 9], ("9", "10")), (["b", "a", "b", "a"], ("a", "b"))],
    ids=["numbers", "texts"],
)  # fmt: skip
def test_one_shard_alone_is_split(tmp_path, labels, classes):
    found = one(parquet(tmp_path / "some.parquet", table(labels * 3)))
    assert found.classes == classes and [len(each) for each in found.labels] == [9, 3]


def test_other_columns_by_name(tmp_path):
    content = table(TRAIN * 2, 0, NAMES, fine_label=["x", "y", "z"] * 6).rename_columns(["img", "label", "fine_label"])
    path = parquet(tmp_path / "x.parquet", content)
    assert one(path, Columns(label="fine_label")).classes == ("x", "y", "z")
    with refused("--label-column 'no' is not a column", "'img', 'label', 'fine_label'"):
        one(path, Columns(label="no"))
    with refused("--root only applies to lists"):
        one(path, Columns(root=str(tmp_path)))
    plain = pa.table({"image": [png(k) for k in range(6)], "label": [0, 1] * 3})
    assert len(one(parquet(tmp_path / "binary.parquet", plain)).labels[0]) == 4


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path):
    damaged = write(tmp_path / "x.parquet", b"PAR1 and no more")
    with refused("cannot be read", "x.parquet", "fetch it again"):
        one(damaged)
    with refused("cannot be read", "x.arrow"):
        one(write(tmp_path / "x.arrow", b"\xff\xff\xff\xff"))
    with refused("has no column of labels", "--label-column"):
        one(parquet(tmp_path / "y.parquet", table(TRAIN).drop_columns("label")))
    with refused("got string", "--image-column"):
        one(parquet(tmp_path / "z.parquet", pa.table({"image": ["a"], "label": [0]})))
    with refused("row 1", "as 'label', got None"):
        one(parquet(tmp_path / "n.parquet", table([0, None, 1])))
    # -1 stands for a label that is kept back: no class, and not the last one.
    for label in (-1, len(NAMES)):
        with refused("x.parquet/1", f"has the label {label}", f"0 to {len(NAMES) - 1}"):
            one(parquet(tmp_path / "x.parquet", table([0, label, 1, *TRAIN], 0, NAMES)))
    for split, labels in (("train", [0, 0, 1, 1]), ("test", [0, 1, 2])):
        parquet(tmp_path / "unknown" / f"{split}.parquet", table(labels))
    with refused("the class '2'", "did not occur in training"):
        load_train(str(tmp_path / "unknown"))
    with refused("no shards of training images"):
        one(parquet(tmp_path / "t" / "test.parquet", table(TEST)).parent)


def test_a_row_without_bytes_is_an_unreadable_image(tmp_path):
    content = table(TRAIN * 2, 0, NAMES)
    images = content.column("image").to_pylist()
    images[4]["bytes"] = None
    path = parquet(tmp_path / "x.parquet", content.set_column(0, "image", pa.array(images)))
    unreadable = inspect_data(str(path)).unreadable
    assert [(each.name, each.reason[:31]) for each in unreadable] == [
        ("x.parquet/4", "its row has a path but no bytes")
    ]


def test_it_says_what_to_install(tmp_path, monkeypatch):
    path = parquet(tmp_path / "x.parquet", table(TRAIN))
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with refused("require pyarrow; install it with: pip install 'dnas[hf]'"):
        one(path)


def test_class_folders_beside_a_shard_are_class_folders(tmp_path):
    root = two_classes(tmp_path / "x")
    parquet(root / "train.parquet", table(TRAIN))
    found = one(root)
    assert found.classes == ("a", "b") and found.left_out == ["1 file that is not an image (1 .parquet)"]


def test_streaming_gives_the_same_bits_and_parquet_says_why_not(tmp_path):
    root = saved(tmp_path / "x")
    whole, _, _ = load_splits(str(root))
    streamed, _, _ = load_splits(str(root), memory="stream")
    import torch

    assert torch.equal(streamed.batch(torch.arange(9)), whole.images)
    assert fingerprint(streamed) == fingerprint(load_splits(str(root), memory="stream")[0])
    streamed.close()
    with refused("--data-memory stream", "save_to_disk"):
        load_splits(str(hub(tmp_path / "y")), memory="stream")


def test_a_run_on_shards_is_one_on_files(tmp_path):
    images = make_images(tmp_path / "images", each=24)
    content = pa.table(
        {
            "image": [{"bytes": file.read_bytes(), "path": None} for file in sorted(images.rglob("*.png"))],
            "label": [file.parent.name for file in sorted(images.rglob("*.png"))],
        }
    )
    options = (*TINY, "--no-baseline", "--finals", "0", "--flip", "on")
    for source, out in ((parquet(tmp_path / "x.parquet", content), "shards"), (images, "files")):
        outcome = invoke("run", "--data", source, *options, "--out", tmp_path / out)
        assert outcome.code == 0, outcome.err
    names = ("architecture.json", "metrics.jsonl")
    assert contents(tmp_path / "shards", names) == contents(tmp_path / "files", names)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_image_folders_with_metadata(tmp_path, kind):
    """In each split's folder, as `imagefolder` of datasets wants it."""
    expected = one(files(tmp_path / "files"))
    for part, labels, first in (("train", TRAIN, 0), ("test", TEST, 9)):
        order = np.argsort(labels, kind="stable")
        rows = [(f"{k}.png", NAMES[labels[k]]) for k in order]
        for k in order:
            write(tmp_path / "x" / part / f"{k}.png", png(first + int(k)))
        lines = [f"{name},{label}" for name, label in rows] if kind == "csv" else []
        texts = [json.dumps({"file_name": name, "label": label}) for name, label in rows] if kind == "jsonl" else []
        text = "\n".join([*(["file_name,label"] if lines else []), *lines, *texts])
        write(tmp_path / "x" / part / f"metadata.{kind}", text.encode())
    found = one(tmp_path / "x")
    same(found, expected)
    shutil.rmtree(tmp_path / "x")


def test_pictures_of_any_kind_within(tmp_path):
    """Rows may hold any format that files may."""
    stream = io.BytesIO()
    Image.fromarray(random_bytes(8, 8)).save(stream, "TIFF")
    path = picture(tmp_path / "a.webp", random_bytes(8, 8, seed=3))
    images = [{"bytes": each, "path": None} for each in (stream.getvalue(), path.read_bytes())] * 3
    found = inspect_data(str(parquet(tmp_path / "x.parquet", pa.table({"image": images, "label": [0, 1] * 3}))))
    assert {form for (form, _, _), _ in found.modes()} == {"TIFF", "WEBP"}
