"""Folder layouts: every file is used, or reported with its reason, or the folder is refused; no split becomes a class.

The public ones are named after the data sets that are handed out so; docs/data.md lists them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dnas.data.overview import overview
from dnas.data.sources.folder import find_layout, list_folder
from dnas.data.sources.parts import part_of
from dnas.data.sources.tree import Folder
from dnas.data.splits import load_splits, load_train
from dnas.errors import InputError


@pytest.fixture(scope="module")
def png(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("png") / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def names_of(line: str) -> list[str]:
    """The files of a line: "a/{b,c} 2" is two pictures in each of a/b and a/c, "a/x.txt" is that file."""
    pattern, _, count = line.partition(" *")
    choices = [part.split(",") for part in re.findall(r"\{(.*?)\}", pattern)]
    pieces = re.split(r"\{.*?\}", pattern)
    folders = ["".join(map("".join, zip(pieces, (*chosen, ""), strict=True))) for chosen in product(*choices)]
    return [f"{folder}/{k}.png" for folder in folders for k in range(int(count))] if count else folders


def grow(root: Path, tree: str, png: bytes) -> list[str]:
    """Write the files of a tree, one line each; returns their names."""
    names = [name for line in tree.split("\n") if line.strip() for name in names_of(line.strip())]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(png if name.endswith((".png", ".jpg", ".JPEG", ".tif")) else b"words")
    return [name for name in names if not name.endswith("/")]


@dataclass(frozen=True)
class Read:
    """A layout that is read: below which folders the images of each split lie, and what is reported."""

    tree: str
    classes: str
    train: str = "train"
    test: str | None = "test"  # None: a fifth of each class of `train`
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A layout that is refused: words of the message."""

    tree: str
    words: tuple[str, ...]


AB = "{a,b}"


def flat(tree: str, classes: str, *left_out: str) -> Read:
    """Class folders without splits."""
    return Read(tree, classes, "", None, left_out)


INVENTED = {
    "train and test": Read(f"train/{AB} *2\ntest/{AB} *2", "a b"),
    "capitals": Read(f"Train/{AB} *2\nTest/{AB} *2", "a b", "Train", "Test"),
    "all capitals": Read(f"TRAIN/{AB} *2\nTEST/{AB} *2", "a b", "TRAIN", "TEST"),
    "training and testing": Read(f"training/{AB} *2\ntesting/{AB} *2", "a b", "training", "testing"),
    "trainset and testset": Read(f"trainset/{AB} *2\ntestset/{AB} *2", "a b", "trainset", "testset"),
    "TrainSet and TestSet": Read(f"TrainSet/{AB} *2\nTestSet/{AB} *2", "a b", "TrainSet", "TestSet"),
    "train_images": Read(f"train_images/{AB} *2\ntest_images/{AB} *2", "a b", "train_images", "test_images"),
    "two spellings": Read(f"Training Data/{AB} *2\ntest/{AB} *2", "a b", "Training Data", "test"),
    "prefix": Read(f"my_train/{AB} *2\nmy_test/{AB} *2", "a b", "my_train", "my_test"),
    "suffix": Read(f"train.v2/{AB} *2\nvalid.v2/{AB} *2", "a b", "train.v2", "valid.v2"),
    "numbers": Read(f"train2017/{AB} *2\nval2017/{AB} *2", "a b", "train2017", "val2017"),
    "validation alone": Read(f"Training/{AB} *2\nValidation/{AB} *2", "a b", "Training", "Validation"),
    "dev alone": Read(f"train/{AB} *2\ndev/{AB} *2", "a b", "train", "dev"),
    "validation and test": Read(
        f"train/{AB} *2\nval/{AB} *3\ntest/{AB} *2",
        "a b",
        left_out=("validation images in 'val' (6 images), since there are test images; to train on them, move them to the training images",),
    ),
    "validation and test in capitals": Read(
        f"TRAIN/{AB} *2\nVALID/{AB} *1\nTEST/{AB} *2",
        "a b",
        "TRAIN",
        "TEST",
        ("validation images in 'VALID' (2 images), since there are test images; to train on them, move them to the training images",),
    ),
    "test without classes": Read(
        f"train/{AB} *2\nval/{AB} *2\ntest *3",
        "a b",
        test="val",
        left_out=("images without class folders in 'test' (3 images)",),
    ),
    "test in one folder without classes": Read(
        f"train/{AB} *2\nval/{AB} *2\ntest/images *3",
        "a b",
        test="val",
        left_out=("images without class folders in 'test' (3 images)",),
    ),
    "wrapped parts": Read(f"train/train/{AB} *2\ntest/test/{AB} *2", "a b", "train/train", "test/test"),
    "one part wrapped": Read(f"train/images/{AB} *2\ntest/{AB} *2", "a b", "train/images", "test"),
    "files beside the splits": Read(
        f"train/{AB} *2\ntest/{AB} *2\nREADME.md\nlabels.csv\nextra *4\ndocs/x.txt\nsample.png",
        "a b",
        left_out=(
            "folders beside the splits: 'docs' (no images), 'extra' (4 images)",
            "images outside class folders: 1 in '.'",
            "3 files that are not images (1 .csv, 1 .md, 1 .txt)",
        ),
    ),
    "files within": Read(
        f"train/{AB} *2\ntest/{AB} *2\ntrain/a/Thumbs.db\ntrain/b/Thumbs.db\ntest/a/notes.txt\ntrain/x.png\ntest/y.png"
        "\ntest/b/README",
        "a b",
        left_out=(
            "images outside class folders: 1 in 'test', 1 in 'train'",
            "4 files that are not images (2 .db, 1 without an ending, 1 .txt)",
        ),
    ),
    "hidden files and folders": Read(
        f"train/{AB} *2\ntest/{AB} *2\n.DS_Store\ntrain/.DS_Store\ntrain/a/.DS_Store\n.git/x.png\n__MACOSX/train/a *2"
        "\ntrain/a/._0.png\ntest/a/.hidden.png",
        "a b",
        left_out=("hidden files and folders: 3 .DS_Store, .*.png, ._*, .git, __MACOSX",),
    ),
    "class folders": flat(f"{AB} *5", "a b"),
    "class folders and a list": flat(
        f"{AB} *5\nlabels.csv\nclasses.txt", "a b", "2 files that are not images (1 .csv, 1 .txt)"
    ),
    "digits": flat("{0,1,2,3,4,5,6,7,8,9} *2", "0 1 2 3 4 5 6 7 8 9"),
    "four digits": flat("{0001,1234,3021} *2", "0001 1234 3021"),
    "a year among others": flat("{1999,old} *2", "1999 old"),
    "a vehicle": flat("{plane,train} *2", "plane train"),
    "valid or not": flat("{invalid,valid} *2", "invalid valid"),
    "colors": flat("{color,grayscale} *2", "color grayscale"),
    "masks": flat("{with_mask,without_mask} *2", "with_mask without_mask"),
    "a class called test within splits": Read("train/{test,tube} *2\ntest/{test,tube} *2", "test tube"),
    "folders within classes": flat("cat/{day,night} *3\ndog/{day,night} *3", "cat dog"),
    "years": Refused("{2019,2020,2021} *2", ("'2019', '2020' and '2021'", "years", "rename them")),
    "folds": Refused("fold{1,2,3}/{a,b} *2", ("'fold1'", "parts of a data set", "--data", "rename")),
    "Fold_1": Refused("Fold_{1,2} *2", ("parts of a data set",)),
    "parts": Refused("part{1,2} *2", ("parts of a data set", "rename")),
    "batches": Refused("batch_{01,02} *2", ("parts of a data set",)),
    "images and labels": Refused("images *3\nlabels/0.txt", ("'images' and 'labels'", "one folder per class")),
    "images and masks": Refused("{images,masks} *3", ("'images' and 'masks'", "one folder per class")),
    "YOLO": Refused("images/{train,val} *2\nlabels/{train,val}/0.txt", ("one folder, 'images'", "--data")),
    "one wrapping folder": Refused(f"data/{AB} *2\nREADME", ("one folder, 'data'", "--data", "/data'")),
    "two wrapping folders": Refused(f"my data/images/{AB} *2", ("one folder, 'my data/images'",)),
    "a folder around splits": Refused(f"archive/{{train,test}}/{AB} *2", ("one folder, 'archive'", "/archive'")),
    "splits within classes": Refused("{cat,dog}/{train,test} *2", ("'cat'", "contains splits", "train/cat")),
    "test beside classes": Refused("{cat,dog,test} *2", ("'test'", "looks like a split", "rename")),
    "validation with classes beside classes": Refused("{cat,dog} *2\nvalid/{cat,dog} *2", ("'valid'", "cat")),
    "test and validation": Refused(f"{{test,val}}/{AB} *2", ("'test' and 'val'", "splits, not like classes")),
    "training twice": Refused(f"{{Train,training,test}}/{AB} *2", ("several training folders", "'Train' and 'training'")),
    "classes in the names of splits": Refused(
        "{cat,dog}_{train,test} *2", ("several training folders", "'cat_train' and 'dog_train'")
    ),
    "class and class for tests": Refused("cat *2\ncat_test *2\ndog *2\ndog_test *2", ("'cat_test'", "a split of 'cat'")),
    "training alone": Refused(f"Training/{AB} *2", ("has Training/ but no test/", "the Training folder itself")),
    "splits without classes": Refused("Train *3\nTest *3", ("no class folders", "one folder per class")),
    "another class in the test": Refused(f"Train/{AB} *2\nTest/{{b,c}} *2", ("'c'", "no folder in Train/")),
    "versions": Refused("{raw,resized}/{a,b} *2", ("'raw' and 'resized'", "versions of the same images")),
    "an empty class": Refused(f"{AB} *3\nc/", ("/c'", "no images", "remove it")),
}  # fmt: skip

PUBLIC = {
    "Intel image classification": Read(
        "seg_train/seg_train/{buildings,forest,glacier} *2\nseg_test/seg_test/{buildings,forest,glacier} *2\n"
        "seg_pred/seg_pred *4",
        "buildings forest glacier",
        "seg_train/seg_train",
        "seg_test/seg_test",
        ("folders beside the splits: 'seg_pred' (4 images)",),
    ),
    "Brain tumor MRI": Read(
        "{Training,Testing}/{glioma,meningioma,notumor,pituitary} *2",
        "glioma meningioma notumor pituitary",
        "Training",
        "Testing",
    ),
    "Brain tumor, yes and no": Refused(
        "{yes,no} *2\nbrain_tumor_dataset/{yes,no} *2", ("'brain_tumor_dataset'", "repeats the folders", "remove it")
    ),
    "chest_xray": Read(
        "{train,test}/{NORMAL,PNEUMONIA} *2\nval/{NORMAL,PNEUMONIA} *1\ntrain/.DS_Store\n"
        "__MACOSX/train/._NORMAL\nchest_xray/{train,test,val}/{NORMAL,PNEUMONIA} *1",
        "NORMAL PNEUMONIA",
        left_out=(
            "validation images in 'val' (2 images), since there are test images; to train on them, move them to the training images",
            "folders beside the splits: 'chest_xray' (6 images)",
            "hidden files and folders: .DS_Store, __MACOSX",
        ),
    ),
    "Fruits-360": Read(
        "{Training,Test}/{Apple Red 1,Banana} *2\npapers/x.pdf\ntest-multiple_fruits *3\nLICENSE",
        "Apple Red 1|Banana",
        "Training",
        "Test",
        (
            "folders beside the splits: 'papers' (no images), 'test-multiple_fruits' (3 images)",
            "2 files that are not images (1 without an ending, 1 .pdf)",
        ),
    ),
    "GTSRB, Kaggle": Refused("Train/{0,1,2} *2\nTest *3\nMeta *3\nTrain.csv", ("has Train/ but no test/", "Train folder")),
    "GTSRB, training folder": flat("{00000,00001} *2\n00000/GT-00000.csv", "00000 00001", "1 file that is not an image (1 .csv)"),
    "Cats and dogs, Kaggle": Read(
        "training_set/training_set/{cats,dogs} *2\ntest_set/test_set/{cats,dogs} *2\ntraining_set/training_set/cats/_DS_Store",
        "cats dogs",
        "training_set/training_set",
        "test_set/test_set",
        ("1 file that is not an image (1 without an ending)",),
    ),
    "Dogs vs. cats, Kaggle": Refused("train *4\ntest1 *4\nsampleSubmission.csv", ("no class folders", "/train'")),
    "hymenoptera_data": Read("{train,val}/{ants,bees} *2", "ants bees", test="val"),
    "imagenette2": Read("{train,val}/{n01440764,n02102040} *2\nnoisy_imagenette.csv", "n01440764 n02102040", test="val",
        left_out=("1 file that is not an image (1 .csv)",)),
    "Flowers-102, Kaggle": Read("{train,valid}/{1,10,102} *2\ntest *3\ncat_to_name.json", "1 10 102", test="valid",
        left_out=("images without class folders in 'test' (3 images)", "1 file that is not an image (1 .json)")),
    "Caltech-101": Refused(
        "101_ObjectCategories/{BACKGROUND_Google,accordion,ant} *2\nAnnotations/accordion/x.mat\nshow_annotation.m",
        ("one folder, '101_ObjectCategories'",)),
    "Caltech-101, its folder": flat("{BACKGROUND_Google,accordion,ant} *2\naccordion/tmp", "BACKGROUND_Google accordion ant", "1 file that is not an image (1 without an ending)"),
    "EuroSAT": Refused("2750/{AnnualCrop,Forest} *2", ("one folder, '2750'", "/2750'")),
    "PlantVillage": Refused("{color,grayscale,segmented}/{Apple,Corn} *2", ("'color'", "versions of the same images")),
    "PlantVillage, color": flat("{Apple___scab,Corn___rust} *2", "Apple___scab Corn___rust"),
    "Food-101": Refused("images/{apple_pie,ramen} *2\nmeta/{classes.txt,train.txt}\nREADME.txt", ("one folder, 'images', and 'meta' contains none",)),
    "Food-11": Read("{training,validation,evaluation}/{Bread,Soup} *2", "Bread Soup", "training", "evaluation", (
        "validation images in 'validation' (4 images), since there are test images; to train on them, move them to the training images",)),
    "MNIST as PNG": Read("{training,testing}/{0,1,2,3,4,5,6,7,8,9} *1", "0 1 2 3 4 5 6 7 8 9", "training", "testing"),
    "CINIC-10": Read("{train,valid,test}/{airplane,truck} *2\nREADME.md\nimagenet-contributors.csv", "airplane truck",
        left_out=(
            "validation images in 'valid' (4 images), since there are test images; to train on them, move them to the training images",
            "2 files that are not images (1 .csv, 1 .md)",
        )),
    "Stanford Dogs": Refused(
        "images/Images/{n02085620-Chihuahua,n02116738-dingo} *2\nannotations/Annotation/n02085620-Chihuahua/n1",
        ("one folder, 'images/Images'",)),
    "Tiny-ImageNet, validation in class folders": Read(
        "train/{n01443537,n01629819}/images *2\ntrain/n01443537/boxes.txt\nval/{n01443537,n01629819} *2\ntest/images *3",
        "n01443537 n01629819",
        test="val",
        left_out=("images without class folders in 'test' (3 images)", "1 file that is not an image (1 .txt)")),
    "Sign Language Digits": Refused(
        "Dataset/{0,1,2,3,4,5,6,7,8,9} *2\nREADME.md", ("one folder, 'Dataset'",)),
    "Malaria cell images": Refused(
        "{Parasitized,Uninfected} *2\ncell_images/{Parasitized,Uninfected} *2\nParasitized/Thumbs.db",
        ("'cell_images'", "repeats the folders", "remove it")),
    "Malaria cell images, within": flat("{Parasitized,Uninfected} *2\n{Parasitized,Uninfected}/Thumbs.db",
        "Parasitized Uninfected", "2 files that are not images (2 .db)"),
    "UC Merced": Refused("Images/{agricultural,airplane} *2\nreadme.txt", ("one folder, 'Images'", "/Images'")),
    "FER-2013": Read("{train,test}/{angry,happy} *2", "angry happy"),
    "Rock, paper, scissors": Refused(
        "{rps,rps-test-set}/{paper,rock} *2", ("'rps-test-set'", "a split of 'rps'")),
    "Horses or humans": Refused(
        "horse-or-human/{horses,humans} *2\nvalidation-horse-or-human/{horses,humans} *2",
        ("a split of 'horse-or-human'",)),
    "UrbanSound8K spectrograms": Refused("fold{1,2,10} *2\nUrbanSound8K.csv", ("parts of a data set",)),
}  # fmt: skip

LAYOUTS = {**{f"invented: {name}": case for name, case in INVENTED.items()},
           **{f"public: {name}": case for name, case in PUBLIC.items()}}  # fmt: skip


def test_there_are_as_many_layouts_as_promised():
    assert len(INVENTED) >= 30 and len(PUBLIC) >= 20


@pytest.mark.parametrize("case", [case for case in LAYOUTS.values() if isinstance(case, Read)], ids=[
    name for name, case in LAYOUTS.items() if isinstance(case, Read)])  # fmt: skip
def test_every_file_is_used_or_reported(tmp_path, png, case):
    files = grow(tmp_path, case.tree, png)
    train, info, test = load_splits(str(tmp_path), memory="whole")
    classes = tuple(case.classes.split("|" if "|" in case.classes else " "))
    assert info.classes == classes
    listings = [list_folder(Folder(tmp_path), "train"), list_folder(Folder(tmp_path), "test", info.classes)]
    assert [len(train), len(test)] == [len(listing.names) for listing in listings]

    def below(folder: str) -> list[str]:
        prefixes = tuple(f"{folder}/{name}/" if folder else f"{name}/" for name in classes)
        hidden = re.compile(r"(^|/)(\.|__MACOSX)")
        return [name for name in files if name.startswith(prefixes) and name[-4:] == ".png" and not hidden.search(name)]

    if case.test is None:
        both = listings[0].names + listings[1].names
        assert sorted(both) == sorted(below(case.train)) and len(set(both)) == len(both)
    else:
        assert sorted(listings[0].names) == sorted(below(case.train))
        assert sorted(listings[1].names) == sorted(below(case.test))
    for listing, split in zip(listings, (train, test), strict=True):
        for name, label in zip(listing.names, split.labels.tolist(), strict=True):
            assert f"/{classes[label]}/" in f"/{name}"
    told = overview(info, train, test)[1:]
    reported = [
        line.removeprefix("left out: ") for line in told if not line.startswith("warning: ")
    ]  # all are the same
    assert reported == list(case.left_out)
    # What is neither used nor reported would not be in any number.
    used = len(train) + len(test)
    assert (used == len(files)) == (not reported)


@pytest.mark.parametrize("case", [case for case in LAYOUTS.values() if isinstance(case, Refused)], ids=[
    name for name, case in LAYOUTS.items() if isinstance(case, Refused)])  # fmt: skip
def test_what_is_no_class_is_refused_with_what_to_do(tmp_path, png, case):
    grow(tmp_path, case.tree, png)
    with pytest.raises(InputError) as caught:
        load_train(str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message and ";" in message
    for word in case.words:
        assert word in message


@pytest.mark.parametrize("name", [name for name, case in LAYOUTS.items() if "one folder, '" in str(case)])
def test_the_folder_that_is_named_as_the_remedy_is_another_try(tmp_path, png, name):
    grow(tmp_path, LAYOUTS[name].tree, png)
    with pytest.raises(InputError) as caught:
        load_train(str(tmp_path))
    named = re.search(r"give --data '(.*)'$", str(caught.value))
    if name == "invented: YOLO":
        with pytest.raises(InputError, match="no class folders"):
            load_train(named[1])
    else:
        assert len(load_train(named[1])[1].classes) > 1


# --- the rule of names -------------------------------------------------------------------------------------------

TRAIN = ["train", "Train", "TRAIN", "training", "Training", "trainset", "train_set", "TrainSet", "training-set", "trn",
         "train_images", "trainImages", "Train Data", "train1", "train_2017"]  # fmt: skip
TEST = ["test", "Test", "TEST", "testing", "Testing", "testset", "test_set", "TestSet", "test-images", "tst", "eval",
        "evaluation", "test1"]  # fmt: skip
VALIDATION = ["val", "Val", "VALID", "validation", "Validation Set", "valset", "dev", "val2017"]


@given(
    train=st.sampled_from(TRAIN),
    test=st.sampled_from([*TEST, *VALIDATION]),
    case=st.sampled_from([str, str.upper, str.lower, str.capitalize]),
    classes=st.lists(st.sampled_from(["a", "b", "cat", "9", "x y"]), min_size=2, unique=True),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_split_becomes_a_class(tmp_path_factory, png, train, test, case, classes):
    root = tmp_path_factory.mktemp("splits")
    for part in (case(train), case(test)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            (root / part / name / "0.png").write_bytes(png)
    layout = find_layout(Folder(root))
    assert (layout.train, layout.test) == (case(train), case(test))
    assert list_folder(Folder(root), "train").classes == tuple(sorted(classes))


@pytest.mark.parametrize(
    "name",
    ["cat", "trains", "protest", "contest", "train_test", "testament", "latest", "valve", "devil", "0", "tests", ""],
)
def test_other_words_are_no_splits(name):
    assert part_of(name) is None


def test_all_parts_are_told():
    assert {part_of(name) for name in TRAIN} == {("train", "")}
    assert {part_of(name) for name in TEST} == {("test", "")}
    assert {part_of(name) for name in VALIDATION} == {("validation", "")}
    assert part_of("seg_train") == ("train", "seg") and part_of("test-HorsesOf2") == ("test", "horses of2")


# --- what is reported --------------------------------------------------------------------------------------------


def test_linked_folders_within_classes_are_reported(tmp_path, png):
    grow(tmp_path, "{a,b} *5\nelsewhere/x.png", png)
    (tmp_path / "elsewhere").rename(tmp_path.parent / f"{tmp_path.name} elsewhere")
    (tmp_path / "a" / "more").symlink_to(tmp_path.parent / f"{tmp_path.name} elsewhere")
    left_out = list_folder(Folder(tmp_path), "train").left_out
    assert left_out.lines() == ["linked folders within class folders: 1 in 'a'"]


def test_a_report_does_not_grow_with_the_files(tmp_path, png):
    grow(tmp_path, "{a,b} *5", png)
    for k in range(300):
        for name in (f"note {k}.txt", f"._{k}.png", f".{k}.png"):
            (tmp_path / "a" / name).write_bytes(b"")
        (tmp_path / f"{k}.png").write_bytes(png)
    left_out = list_folder(Folder(tmp_path), "train").left_out
    assert sum(map(len, left_out.counts.values())) == 4
    assert left_out.lines() == [
        "images outside class folders: 300 in '.'",
        "300 files that are not images (300 .txt)",
        "hidden files and folders: 300 .*.png, 300 ._*",
    ]


def test_each_folder_is_looked_at_few_times(tmp_path, png, monkeypatch):
    """A million files: no look at every file, and none twice but for the levels above classes."""
    grow(tmp_path, "train/{a,b,c}/{x,y} *2\ntest/{a,b,c}/{x,y} *2", png)
    looks = Counter()
    real = os.scandir

    def scandir(path="."):
        looks[str(path)] += 1
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "stat", None)
    list_folder(Folder(tmp_path), "train")
    deep = {path: count for path, count in looks.items() if path.endswith(("/x", "/y", "/a", "/b", "/c"))}
    assert set(deep.values()) == {1} and len(deep) == 9
