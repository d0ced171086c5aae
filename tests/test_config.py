import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dnas.data.splits import DataInfo
from dnas.errors import InputError
from dnas.methods.protocol import Progress, SupernetMethod
from dnas.methods.registry import METHODS, create, get_method
from dnas.pipeline.config import Config, parse, resolve
from dnas.pipeline.overrides import nested
from dnas.pipeline.presets import QUICK_SEARCH_EPOCHS, QUICK_SPACE, paper_travel, preset_settings
from dnas.runtime import distributed
from dnas.settings import Recipe
from dnas.space.darts import DARTS


def info(source="cifar10", image_size=32):
    return DataInfo(source, tuple("abcdefghij"), 3, image_size, (0.5,) * 3, (0.2,) * 3, True)


def resolved(source="cifar10", count=50_000, **overrides):
    return resolve(overrides, info(source), count, "print")[0]


def test_the_paper_preset_has_the_papers_settings():
    dnas = resolved(preset="paper")
    assert (dnas.search.layers, dnas.search.channels, dnas.search.batch_size) == (20, 16, 64)
    assert (dnas.search.epochs, dnas.search.warmup_epochs, dnas.search.architecture_learning_rate) == (50, 15, 3e-4)
    assert (dnas.train.channels, dnas.train.epochs, dnas.train.batch_size, dnas.train.cutout) == (36, 600, 96, 16)
    assert (dnas.train.drop_path, dnas.train.auxiliary_weight, dnas.train.pad) == (0.2, 0.4, 4)
    hundred = resolved("cifar100", preset="paper")
    assert (hundred.search.layers, hundred.search.batch_size, hundred.train.channels) == (14, 96, 50)
    tiny = resolved("tiny-imagenet", preset="paper").train
    assert (tiny.stem, tiny.channels, tiny.rotation, tiny.pad, tiny.cutout) == ("tiny-imagenet", 48, 20.0, 0, 0)
    assert (tiny.epochs, tiny.learning_rate, tiny.schedule, tiny.decay) == (250, 0.1, "exponential", 0.97)
    assert (tiny.label_smoothing, tiny.weight_decay, tiny.drop_path, tiny.batch_size) == (0.1, 3e-5, 0.0, 96)


def test_pc_darts_has_its_own_settings_and_those_of_dnas_as_its_paired_control():
    shared = resolved(preset="paper", method="pc-darts")
    assert (shared.search.layers, shared.search.batch_size, shared.search.learning_rate) == (8, 256, 0.1)
    assert (shared.search.architecture_learning_rate, shared.search.learning_rate_min) == (6e-4, 0.0)
    assert (shared.train.layers, shared.train.drop_path) == (20, 0.3)
    full = resolved(preset="paper", method="pc-darts", mapping="full")
    assert full.search == resolved(preset="paper").search


@pytest.mark.parametrize("count", [200, 1437, 50_000])
@pytest.mark.parametrize(("name", "expected"), [("dnas", 35 * 391 * 3e-4), ("pc-darts", 35 * 98 * 6e-4)])
def test_a_quick_search_lets_the_architecture_travel_as_far_as_the_paper(name, expected, count):
    method = create(name, None, {}, DARTS)
    assert paper_travel(method) == pytest.approx(expected)
    search = resolved(count=count, method=name).search
    steps = (search.epochs - search.warmup_epochs) * math.ceil(round(search.images / 2) / search.batch_size)
    assert steps * search.architecture_learning_rate == pytest.approx(expected, rel=0.01)
    longer = resolved(count=count, method=name, search={"epochs": 40}).search
    assert longer.architecture_steps * longer.architecture_learning_rate == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if issubclass(method, SupernetMethod)])
def test_what_samples_operations_has_more_steps_for_them(name):
    """A step trains one of an edge's operations, or none: in as few steps as others take they learn next to nothing."""
    method = create(name, None, {}, DARTS)
    mapping = method.mapping(3, 0)
    executed = [method.mixing(mapping, Progress(0, 2, step=step)).active for step in range(2)]
    one_by_one = executed[0] is not None and executed[0].sum(-1).max() == 1
    sampled = one_by_one and not torch.equal(*executed)
    assert sampled == (name in ("enas", "gdas", "nasib", "rsws", "spos"))
    assert (resolved(method=name, finals=0).search.epochs >= 3 * QUICK_SEARCH_EPOCHS) == sampled


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.quick])
def test_the_quick_preset_sets_what_a_method_names_for_it(name):
    method = get_method(name)
    quick, paper = resolved(method=name, finals=0), resolved(method=name, preset="paper")
    defaults = method.Options().model_dump()
    for option, value in method.quick.get("options", {}).items():
        assert quick.options[option] == value != paper.options[option] == defaults[option]
        own = resolved(method=name, options={option: defaults[option]})
        assert own.options == quick.options | {option: defaults[option]}
    for setting, value in method.quick.get("search", {}).items():
        assert getattr(quick.search, setting) == value
        assert getattr(resolved(method=name, search={setting: value + 1}).search, setting) == value + 1


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.paper_options])
def test_the_paper_preset_sets_the_published_options(name):
    method = get_method(name)
    paper, quick = resolved(method=name, preset="paper"), resolved(method=name)
    for option, value in method.paper_options.items():
        assert paper.options[option] == value != quick.options[option]
        own = resolved(method=name, preset="paper", options={option: quick.options[option]})
        assert own.options == paper.options | {option: quick.options[option]}


def test_every_difference_between_presets_is_in_the_written_configuration():
    quick, paper = resolved().to_toml(), resolved(preset="paper").to_toml()
    method = create("dnas", None, {}, DARTS)
    for section in ("search", "train"):
        base = preset_settings("quick", method, info(), 50_000)[section]
        assert set(base) <= set(quick[section])
        assert quick[section] != paper[section] and set(quick[section]) == set(paper[section])


@pytest.mark.parametrize(
    ("side", "stem", "half", "handmade_half", "images"),
    [
        (8, "cifar", 0.0, 0.0, 200_000), (16, "cifar", 0.0, 0.0, 200_000), (28, "halving", 0.0, 0.5, 200_000),
        (32, "halving", 0.0, 0.5, 200_000), (64, "halving", 0.5, 0.5, 50_000),
        (224, "imagenet", 0.5, 0.5, 65_306),
    ],
)  # fmt: skip
def test_the_quick_preset_shows_the_first_cells_few_pixels(side, stem, half, handmade_half, images):
    method = create("dnas", None, {}, DARTS)
    of = info(image_size=side)
    train = preset_settings("quick", method, of, 10**6)["train"]
    assert (train["stem"], train["half_size"], train["images"]) == (stem, half, images)
    for name in ("dnas", "spos", "random"):  # whatever a search trains has cells as large as the network's
        assert preset_settings("quick", create(name, None, {}, DARTS), of, 10**6)["search"]["stem"] == stem
    assert preset_settings("quick", method, of, 10**6, handmade=True)["train"]["half_size"] == handmade_half
    paper = preset_settings("paper", method, info(), 10**6)
    assert "stem" not in paper["train"] and "stem" not in paper["search"]


def test_the_quick_preset_trains_candidates_by_the_recipe_of_networks():
    run = resolved(method="random", finals=0)
    for name in (*Recipe.model_fields, "learning_rate", "learning_rate_min", "weight_decay", "final_norm"):
        assert getattr(run.search, name) == getattr(run.train, name), name
    assert run.search.optimizer != resolved(method="random", preset="paper").search.optimizer


@pytest.mark.parametrize("given", [{"search": {"epochs": 2}}, {"train": {"images": 640}}, {"train": {"steps": 9}},
                                   {"preset": "shared"}, {"command": "search"}, {"finals": 0}])  # fmt: skip
def test_who_says_how_long_a_run_is_has_no_finals_unless_asked(given):
    assert resolved(**given).finals == 0
    asked = {**given, "finals": 3}
    assert "command" in given or resolved(**asked).finals == 3


@pytest.mark.parametrize(
    ("images", "batch_size", "finalists"), [(500, 64, 4), (497, 64, 0), (500, 400, 4), (500, 401, 0)]
)
def test_finals_are_held_by_default_where_a_fifth_of_the_images_tells_candidates_apart(images, batch_size, finalists):
    config, _ = resolve({"train": {"batch_size": batch_size}, "space": "darts"}, info(), images, "")
    assert (config.finals, config.prior) == ((finalists, "auto") if finalists else (0, "none"))


def test_a_run_in_which_nothing_about_the_search_is_chosen_searches_resnet():
    config = resolved()
    assert (config.space, config.prior, config.train.channels) == (QUICK_SPACE, "none", 24)
    assert resolved(search={"epochs": 3}, finals=4).space == QUICK_SPACE
    assert resolved(train={"channels": 16}).train.channels == 16


@pytest.mark.parametrize(
    ("seconds", "channels"), [(0.001, 16), (60, 16), (180, 24), (500, 32), (16 * 180, 48), (81 * 180, 72)]
)
def test_networks_are_as_wide_as_the_time_for_their_training_allows(seconds, channels):
    """Sixteen times the time, twice the channels; the run with a random baseline has two trainings."""
    for chosen in (
        {"budget": seconds, "baseline": False},
        {"budget": 2 * seconds},
        {"command": "train", "budget": seconds},
    ):
        assert resolved(space="mobile", **chosen).train.channels == channels
    assert resolved(space="darts", budget=seconds).train.channels == 16
    assert resolved(space="mobile", budget=seconds, train={"channels": 20}).train.channels == 20


@pytest.mark.parametrize(
    ("images", "side", "channels"), [(50_000, 32, 24), (8_000, 16, 24), (500, 16, 16), (1_437, 8, 16)]
)
def test_without_a_budget_the_width_follows_from_the_images(images, side, channels):
    """4 passes over 50,000 images of 32 pixels, which a stem halves, are as much as 25 over 8,000 of 16 pixels."""
    config, _ = resolve({"space": "mobile"}, info(image_size=side), images, "")
    assert config.train.channels == channels


@pytest.mark.parametrize(
    "given",
    [
        {"space": "darts"},
        {"method": "darts"},
        {"mapping": "shared"},
        {"with_parts": ["beta-decay"]},
        {"options": {"partial_channels": 2}},
        {"prior": "pictures"},
        {"finals": 0},
        {"preset": "paper"},
        {"command": "search"},
    ],
    ids=lambda given: "-".join(given),
)
def test_where_something_is_chosen_darts_is_searched(given):
    assert resolved(**given).space == "darts"


def test_ranks_have_no_finals_by_default(monkeypatch):
    assert resolved().finals == 4
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert (resolved().finals, resolved().search.epochs) == (0, 10)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_search_before_finals_is_an_eighth_of_one_that_decides_alone(name):
    before, alone = resolved(method=name).search, resolved(method=name, finals=0).search
    assert before.images == alone.images // 4 >= 4 * before.batch_size
    assert before.epochs == max(1, alone.epochs // 2)
    # Whose finals are asked for beside a budget is planned for, and not shortened twice.
    assert resolved(method=name, budget=600.0).search.images == alone.images


def test_no_automatic_value_is_left():
    config = resolved()
    for name in ("warmup_epochs", "images", "architecture_learning_rate", "pad"):
        assert getattr(config.search, name) > 0
    train = resolved(train={"cutout": -1, "pad": -1, "images": 0}).train
    assert (train.cutout, train.pad, train.images) == (16, 4, 50_000)


def test_the_command_line_goes_before_the_file_and_the_file_before_the_preset(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("seed = 3\n[search]\nepochs = 7\nlayers = 5\n[options]\nskip_dropout = 0.1\n")
    settings = nested("run", {"config": str(path), "layers": 9, "option": ["skip_dropout=0.3", "search.pad=2"]})
    config = resolved(**settings)
    assert (config.seed, config.search.epochs, config.search.layers, config.search.pad) == (3, 7, 9, 2)
    assert config.options["skip_dropout"] == 0.3 and config.search.channels == 8


@pytest.mark.parametrize(
    ("flag", "value", "places"),
    [
        ("layers", 9, {("search", "layers")}),
        ("channels", 24, {("search", "channels"), ("train", "channels")}),
        ("epochs", 5, {("search", "epochs"), ("train", "epochs")}),
        ("batch_size", 32, {("search", "batch_size"), ("train", "batch_size")}),
        ("search_channels", 24, {("search", "channels")}),
        ("train_channels", 24, {("train", "channels")}),
        ("search_epochs", 5, {("search", "epochs")}),
        ("train_epochs", 5, {("train", "epochs")}),
        ("data", "cifar100", {("data", "source")}),
        ("image_size", 16, {("data", "image_size")}),
        ("seed", 5, {("seed",)}),
    ],
)
def test_each_flag_lands_where_its_name_says(flag, value, places):
    def flat(settings, prefix=()):
        for key, inner in settings.items():
            yield from flat(inner, (*prefix, key)) if isinstance(inner, dict) else [((*prefix, key), inner)]

    before, after = dict(flat(nested("run", {}))), dict(flat(nested("run", {flag: value})))
    assert {place: after[place] for place in places} == dict.fromkeys(places, value)
    assert {k: v for k, v in after.items() if k not in places} == before


KEYS = st.sampled_from(["seed", "preset", "method", "mapping", "search", "train", "data", "options", "format", "nope"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["layers", "epochs", "x"]), inner),
    max_leaves=4,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_anything_is_a_configuration_or_refused_in_a_sentence(values):
    try:
        assert isinstance(parse(values), Config)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 400


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("seconds", -1.0, "--search-seconds must be at least 0, got -1.0"),
        ("batch_size", 1, "--batch-size must be at least 2, got 1"),
        ("update", "joint", "unknown search.update 'joint'; choose from first-order"),
    ],
)
def test_a_wrong_setting_is_called_what_the_command_line_calls_it(key, value, named):
    with pytest.raises(InputError, match=named):
        parse({"search": {key: value}})


@pytest.mark.parametrize("section", ["search", "train"])
def test_no_more_images_can_be_asked_for_than_there_are(section):
    assert getattr(resolved("digits", 100, **{section: {"images": 100}}), section).images == 100
    with pytest.raises(
        InputError,
        match=f"{section}.images must be at most 100 \\(the number of training images\\), or 0 for all; got 101",
    ):
        resolved("digits", 100, **{section: {"images": 101}})
