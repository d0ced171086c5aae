"""Wrong settings are refused before any picture is opened, in the user's own words, whatever the command."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from faults.harness import TINY, invoke, make_images
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic_core.core_schema import ErrorType

import dnas
from dnas.data import splits
from dnas.errors import InputError, SettingError
from dnas.methods.registry import get_method, list_methods
from dnas.options import flag_of
from dnas.pipeline import evaluation
from dnas.pipeline.config import Config, parse
from dnas.settings import DataSettings, TrainSettings
from dnas.study.design import StudySettings
from dnas.study.ranking import RankingSettings
from dnas.validation import _objection, checked


@pytest.fixture
def no_pictures(monkeypatch):
    """Where a picture would be read, the test fails."""

    def opened(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a picture was opened before the settings were checked")

    # Where pictures lie is asked first, whoever reads them.
    monkeypatch.setattr(splits, "locate", opened)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has ended, and the folder of its images."""
    folder = tmp_path_factory.mktemp("checks")
    images = make_images(folder / "images")
    assert invoke("run", "--data", images, *TINY, "--no-baseline", "--out", folder / "run", "--quiet").code == 0
    return folder / "run"


# What is typed, and what the message says. Each is known to be wrong whatever the images are.
SEARCH = [
    (["-o", "search.epoch=3"], "unknown setting search.epoch of method dnas; did you mean 'search.epochs'?"),
    (["-o", "search.lr=1"], "unknown setting search.lr of method dnas; list all with `dnas methods dnas`"),
    (["-o", "serach.epochs=3"], "unknown setting serach.epochs; did you mean 'search.epochs'?"),
    (["-o", "skip_dropuot=0.1"], "unknown --option skip_dropuot of method dnas; did you mean 'skip_dropout'?"),
    (["-o", "skip_dropout=2"], "--option skip_dropout must be "),
    (["-o", "derivation=top2"], "unknown --option derivation 'top2'; did you mean 'top-2'?"),
    (["-o", "search.update=secnd-order"], "unknown search.update 'secnd-order'; did you mean 'second-order'?"),
    (["-o", "search.epochs=0"], "search.epochs must be at least 1, got 0"),
    (["-o", "search.epochs=many"], "search.epochs must be a whole number, got 'many'"),
    (["-o", "search.nesterov=3"], "search.nesterov must be true or false, got 3"),
    (["-o", "search.learning_rate=0"], "search.learning_rate must be above 0, got 0"),
    (["-o", "search.momentum=1"], "search.momentum must be below 1, got 1"),
    (["-o", "search.seconds=soon"], "search.seconds must be a duration such as 90, 5m or 1h30m, got 'soon'"),
    (["-o", "search.learning_rate=nan"], "search.learning_rate must be a finite number, got nan"),
    (["-o", "search.warmup_epochs=99"], "search.warmup_epochs must be below the 5 epochs of the search, got 99"),
    (["-o", "search.update=single-level", "-o", "search.order=weights-first"], "search.order=weights-first cannot be"),
    (["-o", "search.eigenvalue=true", "-o", "search.recompute=true"], "search.eigenvalue cannot be used with"),
    (["-o", "partial_channels=1", "-o", "bypass=one"], "bypass=one does not apply to partial_channels=1"),
    (["-o", "data.workers=2"], "--option data.workers cannot be used; use --data-workers"),
    (["--layers", "2"], "--layers must be at least 3, got 2"),
    (["--channels", "6"], "--channels 6 cannot be used with partial_channels=4"),
    (["--epochs", "0"], "--epochs must be at least 1, got 0"),
    (["--batch-size", "1"], "--batch-size must be at least 2, got 1"),
    (["--search-steps", "-1"], "--search-steps must be at least 0, got -1"),
    (["--search-seconds", "-5m"], "--search-seconds"),
    (["--space", "dart"], "unknown --space 'dart'; did you mean 'darts'?"),
]
METHOD = [
    (["--method", "dartz"], "unknown --method 'dartz'; did you mean 'darts'? List all with `dnas methods`"),
    (["--mapping", "decouple"], "unknown --mapping 'decouple'; did you mean 'decoupled'?"),
    (["--method", "pnas", "--mapping", "full"], "--mapping full cannot be used with method pnas; choose from shared"),
    (["--method", "random", "-o", "search.warmup_epochs=1"], "unknown setting search.warmup_epochs of method random"),
    (["--method", "random", "-o", "search.trials=0"], "search.trials must be at least 1, got 0"),
]
ALL = [
    (["--preset", "quik"], "unknown --preset 'quik'; did you mean 'quick'?"),
    (["--device", "cdua"], "unknown --device 'cdua'; did you mean 'cuda'?"),
    (["--backend", "nativ"], "unknown --backend 'nativ'; did you mean 'native'?"),
    (["--data-memory", "strem"], "unknown --data-memory 'strem'; did you mean 'stream'?"),
    (["--data-memory", "whole", "--data-workers", "2"], "--data-workers 2 only applies to streamed images"),
    (["--data-workers", "-1"], "--data-workers must be at least 0, got -1"),
    (["--image-size", "0"], "--image-size must be at least 8, got 0; leave it out for automatic"),
    (["--image-size", "7"], "--image-size must be at least 8, got 7"),
    (["--image-size", "5000"], "--image-size must be at most 4096, got 5000"),
    (["--time-limit", "5x"], "--time-limit: must be a duration such as 90, 5m or 1h30m, got '5x'"),
    (["--time-limit", "0s"], "--time-limit must be above 0, got 0"),
    (["--checkpoint-every", "-1"], "--checkpoint-every must be at least 0, got -1"),
]
SEED = [(["--seed", "-1"], "--seed must be at least 0, got -1")]
TRAIN = [
    (["-o", "train.epoch=3"], "unknown setting train.epoch; did you mean 'train.epochs'?"),
    (["-o", "train.decay=0.9"], "train.decay=0.9 only applies to train.schedule=exponential"),
    (["-o", "train.label_smoothing=1"], "train.label_smoothing must be below 1, got 1"),
    (["-o", "train.stem=cifra"], "unknown train.stem 'cifra'; did you mean 'cifar'?"),
]
BOTH = [
    (["--train-epochs", "0"], "--train-epochs must be at least 1, got 0"),
    (["--search-epochs", "0"], "--search-epochs must be at least 1, got 0"),
    (["--train-channels", "7"], "--train-channels must be even and at least 2"),
    (["--search-channels", "6"], "--search-channels 6 cannot be used with partial_channels=4"),
    (["--train-layers", "2"], "--train-layers must be at least 3, got 2"),
    (["--mapping", "full", "--train-layers", "9"], "--train-layers 9 does not match the searched depth of 6"),
]
COMPARE = [
    (["--methods", "dartz"], "unknown --methods 'dartz'; did you mean 'darts'?"),
    (["--methods", "dnas", "--mappings", "ful"], "unknown --mappings 'ful'; did you mean 'full'?"),
    (["--methods", "pnas", "--mappings", "full"], "--mappings full: no chosen method supports one of them"),
    (["--architectures", "DARTS_v2"], "--architectures 'DARTS_v2' is neither published nor a reference network; did"),
    (["--methods", "dnas", "--seeds", "0"], "--seeds must be at least 1, got 0"),
    (["--methods", "dnas", "--training-seeds", "0"], "--training-seeds must be at least 1, got 0"),
    (["--methods", "dnas", "--threads", "-1"], "--threads must be at least 0, got -1"),
    (["--methods", "dnas", "--processes", "-1"], "--processes must be at least 1, got -1"),
    (["--methods", "dnas", "--ray-timeout", "1h"], "--ray-timeout"),
    (["--methods", "dnas,random", "-o", "search.trials=3"], "unknown setting search.trials of method dnas"),
]
RANK = [
    (["--architectures", "3"], "--architectures must be at least 4, got 3"),
    (["--methods", "spso"], "unknown --methods 'spso'; did you mean 'spos'?"),
    (["--methods", "random"], "--methods random cannot be used with `dnas rank`"),
    (["--proxy-layers", "4,2"], "--proxy-layers must be at least 3, got 2"),
    (["--proxy-layers", "four"], "--proxy-layers must be whole numbers separated by commas, got 'four'"),
    (["--proxy-epochs", "0"], "--proxy-epochs must be at least 1, got 0"),
    (["--threads", "-1"], "--threads must be at least 0, got -1"),
]
WRONG = [
    *[(["run"], wrong) for wrong in (*SEARCH, *METHOD, *ALL, *SEED, *TRAIN, *BOTH)],
    *[(["search"], wrong) for wrong in (*SEARCH, *METHOD, *ALL, *SEED)],
    *[(["train", "DARTS_V2"], wrong) for wrong in (*TRAIN, *ALL, *SEED, SEARCH[19], SEARCH[21], SEARCH[22])],
    *[(["compare", "--methods", "dnas"], wrong) for wrong in (*SEARCH, *ALL, *TRAIN, *BOTH[:5])],
    *[(["compare"], wrong) for wrong in COMPARE],
    *[(["rank"], wrong) for wrong in (*SEARCH, *ALL, *SEED, *TRAIN, *BOTH[:4], *RANK)],
]


@pytest.mark.parametrize(
    ("command", "typed", "says"),
    [(command, *wrong) for command, wrong in WRONG],
    ids=[" ".join([*command, *typed]) for command, (typed, _) in WRONG],
)
def test_no_picture_is_opened_when_a_setting_is_wrong(command, typed, says, no_pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*command, *typed, "--quiet")
    assert outcome.code == 2 and len(outcome.lines) == 1, outcome.err
    if command[0] == "run" or "--epochs" in typed or says.startswith("unknown"):
        assert says in outcome.err
    else:
        # Presets differ between commands in what the bounds of a combination are.
        assert says.partition(" ")[0] in outcome.err
    assert "Input should" not in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (typed, says)
        for typed, says in ALL
        if typed[0] in ("--device", "--image-size", "--data-memory", "--data-workers")
    ],
)
def test_evaluate_checks_its_settings_first(typed, says, finished, no_pictures, monkeypatch):
    def loaded(*arguments: Any) -> Any:
        raise AssertionError("the network was loaded before the settings were checked")

    if len(typed) == 2:
        monkeypatch.setattr(evaluation, "load_model", loaded)
        outcome = invoke("evaluate", finished, *typed)
        assert outcome.code == 2 and says in outcome.err and len(outcome.lines) == 1


def test_resume_finds_a_changed_configuration_before_it_reads_a_picture(finished, tmp_path, no_pictures):
    run = tmp_path / "run"
    config = (finished / "config.toml").read_text()
    run.mkdir()
    (run / "config.toml").write_text(re.sub(r"epochs = \d+", "epochs = 0", config, count=1))
    outcome = invoke("resume", run)
    assert outcome.code == 2 and f"search.epochs in '{run}/config.toml' must be at least 1, got 0" in outcome.err
    (run / "config.toml").write_text(config.replace("[search]", "[search]\nepoch = 3"))
    outcome = invoke("resume", run)
    assert outcome.code == 2 and f"unknown setting search.epoch in '{run}/config.toml' of method dnas" in outcome.err


def test_resume_finds_settings_that_are_not_its_checkpoints_before_it_reads_a_picture(
    finished, tmp_path, monkeypatch, request
):
    run = tmp_path / "run"
    images = finished.parent / "images"
    begun = invoke("run", "--data", images, *TINY, "--out", run, "--checkpoint-every", "0", "--time-limit", "1ms")
    assert begun.code == 75, begun.err
    file = run / "config.toml"
    file.write_text(file.read_text().replace("momentum = 0.9", "momentum = 0.8", 1))
    request.getfixturevalue("no_pictures")
    outcome = invoke("resume", run, "--quiet")
    assert outcome.code == 2 and "search.momentum was 0.9 and is 0.8" in outcome.err


@pytest.mark.parametrize(("file", "kind"), [("study.toml", "study"), ("ranking.toml", "ranking")])
def test_the_file_of_a_study_that_somebody_changed_is_met_with_a_sentence(file, kind, tmp_path, no_pictures):
    key = "seeds" if kind == "study" else "count"
    (tmp_path / file).write_text(f"{key} = 0\n")
    outcome = invoke("resume", tmp_path)
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert f"{key} in '{tmp_path / file}' must be at least" in outcome.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sead = 1", "unknown setting sead in '{}'; did you mean 'seed'?"),
        ("[serach]\nepochs = 3", "unknown setting serach in '{}'; did you mean 'search'?"),
        ("[search]\nepoch = 3", "unknown setting search.epoch in '{}' of method dnas; did you mean 'search.epochs'?"),
        ("[search]\nepochs = 0", "search.epochs in '{}' must be at least 1, got 0"),
        ("[search]\nseconds = '5 minutes'", "search.seconds in '{}' must be a duration"),
        ("[data]\nsorce = 'digits'", "unknown setting data.sorce in '{}'; did you mean 'data.source'?"),
        ("[data]\nimage_size = 5", "data.image_size in '{}' must be at least 8, got 5"),
        ("[train]\nepoch = 3", "unknown setting train.epoch in '{}'; did you mean 'train.epochs'?"),
        ("method = 'dartz'", "unknown method in '{}' 'dartz'; did you mean 'darts'?"),
        ("seed = 'one'", "seed in '{}' must be a whole number, got 'one'"),
    ],
)
def test_a_wrong_file_is_named_with_the_setting(text, says, tmp_path, no_pictures):
    file = tmp_path / "c.toml"
    file.write_text(text)
    outcome = invoke("run", "--config", file, "--out", tmp_path / "never")
    assert outcome.code == 2 and says.format(file) in outcome.err and len(outcome.lines) == 1


def test_an_option_over_a_file_is_called_as_typed(tmp_path, no_pictures):
    file = tmp_path / "c.toml"
    file.write_text("[search]\nepochs = 0\n")
    outcome = invoke("run", "--config", file, "--search-epochs", "-3", "--out", tmp_path / "never")
    assert "error: --search-epochs must be at least 1, got -3" in outcome.err


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: dnas.run(method="dartz"), "did you mean 'darts'?"),
        (lambda: dnas.run(image_size=0), "must be at least 8, got 0"),
        (lambda: dnas.run(option={"search.epoch": 3}), "did you mean 'search.epochs'?"),
        (lambda: dnas.run(search_seconds="5x"), "--search-seconds must be a duration"),
        (lambda: dnas.train("DARTS_V2", epochs=0), "--epochs must be at least 1, got 0"),
        (lambda: dnas.get_method("dartz"), "did you mean 'darts'?"),
        (lambda: dnas.load_published("DARTS_v2"), "did you mean 'DARTS_V2'?"),
    ],
)
def test_python_checks_as_the_command_line_does(call, says, no_pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value) and not list(tmp_path.iterdir())


def test_a_mistyped_data_set_is_met_with_the_closest(tmp_path):
    outcome = invoke("run", "--data", "cifar-10", "--out", tmp_path / "never")
    assert outcome.code == 2
    assert (
        "--data 'cifar-10' is neither a known data set nor a file or folder that exists; did you mean 'cifar10'?"
        in outcome.err
    )


def test_flags_and_commands_too():
    assert "Did you mean --epochs?" in invoke("run", "--epocs", 3).err
    assert 'Did you mean "train"?' in invoke("trian").err


# --- pydantic's words never reach the user -------------------------------------------------------------------

VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)
MODELS = [Config, DataSettings, TrainSettings, StudySettings, RankingSettings]
MODELS += [model for name in list_methods() for model in (get_method(name).Settings, get_method(name).Options)]
FIELDS = [(model, field) for model in dict.fromkeys(MODELS) for field in model.model_fields]


@hypothesis_settings(max_examples=400, deadline=None)
@given(st.sampled_from(FIELDS), VALUES)
def test_whatever_is_wrong_is_said_in_our_words(field, value):
    model, name = field
    try:
        checked(model, {name: value}, "options" if "Options" in model.__name__ else "")
    except SettingError as error:
        message = str(error)
        assert name.replace("_", "-") in message or name in message or flag_of(name) in message
        assert re.search(r" must be |^unknown |cannot be ", message), message
        assert "nput should" not in message and "valid" not in message.replace(repr(value), ""), message


@pytest.mark.parametrize("kind", get_args(ErrorType))
def test_every_error_that_pydantic_knows_becomes_a_sentence(kind):
    message = str(_objection("search.epochs", kind, 3, dict.fromkeys(("ge", "gt", "le", "lt", "multiple_of"), 5)))
    assert re.match(r"(unknown )?--epochs (must be|is missing|cannot be)", message), message


def test_settings_have_the_names_of_their_flags():
    named = {
        "search.epochs": "--epochs", "search.layers": "--layers", "train.layers": "--train-layers",
        "search.seconds": "--search-seconds", "data.source": "--data", "data.image_size": "--image-size",
        "data.memory": "--data-memory", "seed": "--seed", "search.pad": "search.pad", "train.pad": "train.pad",
        "options.with_none": "--option with_none", "format": "format",
    }  # fmt: skip
    assert {key: flag_of(key) for key in named} == named


def test_errors_about_settings_can_be_sent_between_processes():
    import pickle

    error = SettingError("search.epochs", "--epochs", " must be at least 1, got 0")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "--epochs must be at least 1, got 0"


def test_zero_is_automatic_in_a_file_only():
    assert parse({"data": {"image_size": 0}}).data.image_size == 0


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["DARTS_v2"], "unknown architecture 'DARTS_v2'; did you mean 'DARTS_V2'?"),
        (["DARTS_V2", "--layers", "2"], "--layers must be at least 3, got 2"),
        (["DARTS_V2", "--channels", "3"], "--channels must be even and at least 2"),
        (["DARTS_V2", "--image-size", "0"], "--image-size must be at least 1, got 0"),
        (["DARTS_V2", "--stem", "cifra"], "unknown --stem 'cifra'; did you mean 'cifar'?"),
    ],
)
def test_show_names_what_was_typed(typed, says):
    outcome = invoke("show", *typed)
    assert outcome.code == 2 and says in outcome.err and len(outcome.lines) == 1
