"""The settings of searches and trainings: each once, with its meaning and its default.

A method names the class of settings that its search reads (`methods.Method.Settings`), so a setting that has no effect
on a search is unknown to it and raises an error. Not here: the values of presets, and which option sets which setting.
"""

from dnas.settings.data import DataSettings
from dnas.settings.limits import AnswerSettings, LimitSettings
from dnas.settings.recipe import BY_PASSES, PAD_BY_PASSES, Recipe, padding
from dnas.settings.searches import GradientSettings, SearchSettings, SupernetSettings, TrialSettings
from dnas.settings.trainings import (
    ARCHITECTURE_SETTINGS,
    WIDTH_SETTINGS,
    NetworkTrainSettings,
    TrainSettings,
    WidthTrainSettings,
    regularisation,
    train_over,
)
from dnas.settings.values import (
    AUTO_RESIZE,
    CHANNELS,
    CIFAR_STEM,
    CROP,
    HALVING_STEM,
    IMAGENET_STEM,
    MIN_LAYERS,
    PAD,
    SMALLEST_IMAGE,
    SQUEEZE,
    STEMS,
    TINY_IMAGENET_STEM,
    WIDEST,
    Duration,
    Flip,
    Memory,
    Resize,
    Settings,
    StemName,
    TrainFlip,
    WholeNumber,
    check_batches,
)

__all__ = [
    "ARCHITECTURE_SETTINGS",
    "AUTO_RESIZE",
    "BY_PASSES",
    "CHANNELS",
    "CIFAR_STEM",
    "CROP",
    "HALVING_STEM",
    "IMAGENET_STEM",
    "MIN_LAYERS",
    "PAD",
    "PAD_BY_PASSES",
    "SMALLEST_IMAGE",
    "SQUEEZE",
    "STEMS",
    "TINY_IMAGENET_STEM",
    "WIDEST",
    "WIDTH_SETTINGS",
    "AnswerSettings",
    "DataSettings",
    "Duration",
    "Flip",
    "GradientSettings",
    "LimitSettings",
    "Memory",
    "NetworkTrainSettings",
    "Recipe",
    "Resize",
    "SearchSettings",
    "Settings",
    "StemName",
    "SupernetSettings",
    "TrainFlip",
    "TrainSettings",
    "TrialSettings",
    "WholeNumber",
    "WidthTrainSettings",
    "check_batches",
    "padding",
    "regularisation",
    "train_over",
]
