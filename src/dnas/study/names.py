"""What the files of a study and of a ranking are called, a study's format and the kinds of its networks.

Needs no torch.
"""

from __future__ import annotations

from typing import Final, Literal

STUDY_FILE = "study.toml"  # what is compared
SUMMARY_FILE = "study.json"  # what came out
RANKING_FILE = "ranking.toml"
RANKED_FILE = "ranking.json"
LOCK_FILE = ".lock"  # held while either is written
FAILED_FILE = "failed.json"  # why runs of a study or a ranking failed, by their names
RUNS = "runs"  # a folder of run folders

SEEDS = 4  # searches with every method, unless a number is given
DEFAULT_MAPPING = "default"  # among the mappings of a study: each method's own

StudyFormat = Literal["dnas-study/1"]
STUDY_FORMAT: Final[StudyFormat] = "dnas-study/1"  # of study.toml and study.json

# A network that a search found, its controls, and references that no search found.
Kind = Literal["searched", "random", "shuffled", "published", "handmade"]
SEARCHED: Final[Kind] = "searched"
REFERENCES: Final[tuple[Kind, ...]] = ("published", "handmade")
# How far a run is that has no result.
FAILED, BEGUN, TO_DO = "failed", "begun", "to do"
