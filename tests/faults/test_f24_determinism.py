"""F24. The same command gives the same bits again, in another folder, after an interruption on a machine with another number of
threads; the number that a run was begun with is part of its configuration and stays in force."""

import signal
from functools import partial

import pytest
from faults.harness import TINY, contents, run_command, send_at

from dnas.disk import read_toml


def test_the_same_command_again_and_in_another_folder(tmp_path, images, undisturbed):
    elsewhere = tmp_path / "with a space" / "deep"
    elsewhere.mkdir(parents=True)
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--out", "run", fault=partial(go_to, elsewhere))
    assert outcome.code == 0, outcome.err
    assert contents(elsewhere / "run") == undisturbed


def test_a_run_folder_that_was_moved_is_resumed(tmp_path, images, undisturbed):
    run, moved = tmp_path / "run", tmp_path / "moved" / "here"
    stop = send_at("train", 2, signal.SIGTERM)
    assert run_command(tmp_path, "run", "--data", images, *TINY, "--out", run, fault=stop).code == 143
    moved.parent.mkdir()
    run.rename(moved)
    assert run_command(tmp_path, "resume", moved).code == 0
    assert contents(moved) == undisturbed


def go_to(folder):
    import os

    os.chdir(folder)


def threads(number, then=None):
    import torch

    torch.set_num_threads(number)
    if then is not None:
        then()


SEARCHED = ("architecture.json", "architecture_parameters.safetensors", "metrics.jsonl")


@pytest.mark.parametrize(("first", "second"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.full)])
def test_a_resume_takes_the_number_of_threads_that_the_run_began_with(tmp_path, images, first, second):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start = ("search", "--data", images, *TINY, "--out")
    assert run_command(tmp_path, *start, whole, fault=partial(threads, first)).code == 0
    stop = partial(threads, first, send_at("search", 2, signal.SIGTERM))
    assert run_command(tmp_path, *start, broken, fault=stop).code == 143
    assert run_command(tmp_path, "resume", broken, fault=partial(threads, second)).code == 0
    assert contents(broken, SEARCHED) == contents(whole, SEARCHED)
    assert read_toml(broken / "config.toml")["environment"]["threads"] == first


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["darts", "gdas", "enas", "spos", "random", "evolution"])
def test_every_kind_of_method_twice(tmp_path, method):
    from faults.harness import make_images

    images = make_images(tmp_path / "images", each=80, size=16)
    tiny = ("--method", method, "--layers", "3", "--channels", "8", "--epochs", "2", "--batch-size", "32")
    if method in ("random", "evolution"):
        tiny += ("-o", "search.trials=4")
    for name in ("one", "two"):
        outcome = run_command(tmp_path, "run", "--data", images, *tiny, "--out", tmp_path / name)
        assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
