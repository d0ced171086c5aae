"""The names of the files of studies and rankings, the format of a study and the kinds of its networks.

This module does not import torch.
"""

from __future__ import annotations

from typing import Final, Literal

STUDY_FILE = "study.toml"  # design and settings
SUMMARY_FILE = "study.json"  # results
RANKING_FILE = "ranking.toml"
RANKED_FILE = "ranking.json"
LOCK_FILE = ".lock"  # held while writing either file
FAILED_FILE = "failed.json"  # reasons of failed runs of a study or ranking, by name
RUNS = "runs"  # the folder of run folders

SEEDS = 4  # searches per method by default
DEFAULT_MAPPING = "default"  # in the mappings of a study: that of each method

StudyFormat = Literal["dnas-study/1"]
STUDY_FORMAT: Final[StudyFormat] = "dnas-study/1"  # of study.toml and study.json

# A searched network, its controls, and reference networks.
Kind = Literal["searched", "random", "shuffled", "published", "handmade"]
SEARCHED: Final[Kind] = "searched"
REFERENCES: Final[tuple[Kind, ...]] = ("published", "handmade")
# The state of a run without a result.
FAILED, BEGUN, TO_DO = "failed", "begun", "to do"
