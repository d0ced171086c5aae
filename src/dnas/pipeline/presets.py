"""Settings of the presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from dnas.data.splits import DataInfo
from dnas.methods.protocol import Method
from dnas.settings import (
    BY_PASSES,
    CIFAR_STEM,
    HALVING_STEM,
    IMAGENET_STEM,
    PAD_BY_PASSES,
    TINY_IMAGENET_STEM,
    GradientSettings,
    NetworkTrainSettings,
    TrialSettings,
)
from dnas.space.protocol import PAPER_LAYERS, SearchSpace

CIFAR10_IMAGES = 50_000
Preset = Literal["quick", "shared", "paper"]
DEFAULT_PRESET: Final[Preset] = "quick"
# --- presets -------------------------------------------------------------------------------------------

# Tiny-ImageNet as in NASP, the protocol of table 3 of the paper (rotation and flip, no crop).
PAPER_TRAIN: dict[str, dict[str, Any]] = {
    "tiny-imagenet": {
        "channels": 48,
        "epochs": 250,
        "learning_rate": 0.1,
        "schedule": "exponential",
        "weight_decay": 3e-5,
        "label_smoothing": 0.1,
        "drop_path": 0.0,
        "cutout": 0,
        "pad": 0,
        "rotation": 20.0,
        "stem": TINY_IMAGENET_STEM,
    },
}
# Without a budget: the number of images per epoch of a search, and in total of a training (minutes on two cores). They
# are reduced if the first layers have more than 16 pixels, in proportion to the longer duration of a step.
QUICK_LAYERS = 6
# The space of a quick run with finals in which nothing about the search is chosen. Its random networks are 2.1
# percentage points better than those of `darts` of the same size after the same time on a processor (95% CI 0.3 to 4.0,
# eight pairs on three data sets, docs/outcome.md).
QUICK_SPACE = "resnet-d"
QUICK_BATCH = 64
QUICK_SEARCH_IMAGES = 2_048
QUICK_SEARCH_EPOCHS = 10
QUICK_TRIALS = 16
QUICK_TRIAL_EPOCHS = 3
# If finals follow, the search is one of several sources of candidates and has an eighth of these images. On CIFAR-10 a
# full search took 130 s, next to a training of 400 s, and its network was 2.2 percentage points below the random
# baseline (docs/outcome.md).
QUICK_FEWER_IMAGES, QUICK_FEWER_EPOCHS = 4, 2
QUICK_LEAST_BATCHES = 4
QUICK_TRAIN_IMAGES = 200_000
QUICK_TRAIN_SECONDS = 180.0  # about the time that these images take on one core, in a network of chains
QUICK_MOST_EPOCHS = 25
QUICK_SIDE = 16
# Reduction of the side length by a stem. From this image size on, the quick preset halves it: half of the time of a
# network is spent in its first layers, and for equal time the accuracy on CIFAR-10 is 4.6 percentage points higher
# (docs/outcome.md).
SHRINKS = {CIFAR_STEM: 1, HALVING_STEM: 2, TINY_IMAGENET_STEM: 2, IMAGENET_STEM: 8}
HALVED_FROM, EIGHTH_FROM = 24, 128
# For a training of few epochs, which the regularization for 600 epochs (cutout, drop path, an auxiliary loss) would
# only slow down. For the reasons, see docs/outcome.md.
QUICK_RECIPE: dict[str, Any] = {
    "optimizer": "muon",
    "muon_learning_rate": 0.05,
    "muon_weight_decay": BY_PASSES,
    "learning_rate": 0.1,
    "schedule": "linear",
    "nesterov": True,
    "weight_decay": 5e-4,
    "norm_decay": False,
    "label_smoothing": 0.1,
    "pad": PAD_BY_PASSES,
    "color": BY_PASSES,
    "cutout": 0,
    "drop_path": 0.0,
    "auxiliary_weight": 0.0,
    "final_norm": True,
}


# Factor of the learning rates if a training starts with weights trained on the same classes: full rates destroy more
# than a short training can recover. With other classes, lower rates learn too little (for figures, see
# docs/networks.md).
CONTINUED = 0.1
RATES = ("learning_rate", "muon_learning_rate")


def paper_travel(method: Method) -> float:
    """Return how far Adam can move an architecture parameter in the method's own search on CIFAR-10.

    The number of steps after the warm-up times the learning rate: 35 · 391 · 3e-4 = 4.1 for DNAS, 2.1 for PC-DARTS. A
    short search with the same learning rate would end at its initial noise. With the paper's √steps × learning rate,
    seeds agree better, on networks that are a point worse (docs/paper.md).
    """
    if not issubclass(method.Settings, GradientSettings):
        return 0.0
    settings = method.Settings(**method.paper_settings("cifar10").get("search", {}))
    settings = settings.resolved(CIFAR10_IMAGES, 0.0, 32)
    return settings.architecture_steps * settings.architecture_learning_rate


def preset_settings(
    preset: str,
    method: Method,
    info: DataInfo,
    count: int,
    *,
    handmade: bool = False,
    finals: bool = False,
    space: SearchSpace | None = None,
    seconds: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """Return the settings of a preset for a data set with `count` training images: {"search": …, "train": …}.

    "paper" uses the settings of each method's paper, "shared" the same for all methods: the defaults of DARTS at the
    depth of the trained network. The trained network may be a reference network (`handmade`), which has its own stem.
    There may be `finals` between search and training. The trained network may be of another `space` than the method's,
    and have a budget of `seconds`; 0: none.
    """
    paper = {"search": {"layers": PAPER_LAYERS}} if preset == "shared" else method.paper_settings(info.source)
    search = {"stratified": True, **paper.get("search", {})}
    train = {"stratified": True, **paper.get("train", {}), **PAPER_TRAIN.get(info.source, {})}
    if "stem" not in train and info.image_size >= EIGHTH_FROM:
        train["stem"] = IMAGENET_STEM
    if preset != "quick":
        return {"search": search, "train": train}
    train.setdefault("stem", HALVING_STEM if info.image_size >= HALVED_FROM else CIFAR_STEM)
    side = info.image_size / SHRINKS[train["stem"]]
    fewer = min(1.0, (QUICK_SIDE / side) ** 2)
    images = min(count, round(QUICK_TRAIN_IMAGES * fewer))
    search |= {
        "layers": QUICK_LAYERS,
        "stem": train["stem"],
        "channels": 8,
        "epochs": QUICK_SEARCH_EPOCHS,
        "batch_size": QUICK_BATCH,
        "images": min(count, max(QUICK_SEARCH_IMAGES // 4, round(QUICK_SEARCH_IMAGES * fewer))),
        "learning_rate": 0.1,
        "learning_rate_min": 0.001,
    }
    if issubclass(method.Settings, GradientSettings):
        search |= {"architecture_learning_rate": 0.0}
    if issubclass(method.Settings, TrialSettings):
        recipe = {name: value for name, value in QUICK_RECIPE.items() if name in TrialSettings.model_fields}
        search |= {"trials": QUICK_TRIALS, "epochs": QUICK_TRIAL_EPOCHS, "learning_rate_min": 0.0, **recipe}
    search |= method.quick.get("search", {})
    if finals:
        least = min(search["images"], QUICK_LEAST_BATCHES * search["batch_size"])
        search["images"] = max(least, search["images"] // QUICK_FEWER_IMAGES)
        search["epochs"] = max(1, search["epochs"] // QUICK_FEWER_EPOCHS)
    epochs = min(QUICK_MOST_EPOCHS, max(1, round(QUICK_TRAIN_IMAGES * fewer / images)))
    seconds = seconds or QUICK_TRAIN_SECONDS * epochs * images * side**2 / (QUICK_TRAIN_IMAGES * QUICK_SIDE**2)
    train |= {
        "layers": 0,
        "channels": (space or method.space).quick_channels(seconds),
        "epochs": epochs,
        "batch_size": QUICK_BATCH,
        "images": images,
        **QUICK_RECIPE,
        # A network whose own stem halves the side does not need smaller images: without them the accuracy is 1.5
        # percentage points higher.
        "half_size": 0.5 if (info.image_size if handmade else side) >= HALVED_FROM else 0.0,
    }
    return {"search": search, "train": train}


def begun(train: Mapping[str, Any], above: Mapping[str, Any], new_head: bool) -> dict[str, Any]:
    """Return the training settings of a preset for a training that starts with trained weights.

    Images have full size in all steps, like those at the end of the earlier training.

    Args:
        train: As from `preset_settings`, possibly with other learning rates.
        above: Settings that take precedence over those of the preset.
        new_head: True if the classes differ from those of the weights; otherwise the learning rates are lower.
    """
    full = {**train, "half_size": 0.0}
    if new_head:
        return full
    rates = RATES if {**train, **above}.get("optimizer") == "muon" else RATES[:1]
    defaults = {name: NetworkTrainSettings.model_fields[name].default for name in rates}
    return full | {name: float(f"{CONTINUED * train.get(name, defaults[name]):.9g}") for name in rates}
