"""Return values of the functions: results for programs, for a terminal and for a notebook."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from dnas.disk import read_json
from dnas.drawing.svg import svg
from dnas.errors import InputError
from dnas.pipeline.classifier import Classifier
from dnas.pipeline.model import load_model
from dnas.runtime.names import ARCHITECTURE_FILE, DRAWING_FILE, RESULT_FILE
from dnas.space.architecture import Architecture
from dnas.study import verdict
from dnas.study.tables import DIFFERENCES, HEADER, RANKING_HEADER, cells, difference_cells, ranking_cells, ranking_title

_Result = TypeVar("_Result", bound="Result")


def load(run: str | Path) -> Classifier:
    """Load the trained network of a run folder, in evaluation mode.

    Args:
        run: The run folder.

    Returns:
        A `Classifier`: it has `classes`, `image_size`, `channels`, `mean` and `std`, and `predict(pictures)` takes
        paths, PIL images, uint8 arrays and tensors. Called with normalized images from `preprocess(pictures)`, it
        returns logits. `network` is the inner module.

    Raises:
        InputError: There is no trained network, or its file is damaged.
    """
    return Classifier(*load_model(run)).eval()


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """Base class of the results of runs.

    Attributes:
        run: The run folder.
        data: The name or path of the data set; "memory" for images that were passed as objects.
        classes: Number of classes.
        peak_memory_bytes: Peak memory of the process, or on a GPU of its memory.
        content: The content of result.json, which has more.
    """

    run: Path
    seed: int
    data: str
    classes: int
    peak_memory_bytes: int
    content: Mapping[str, Any] = field(hash=False)

    @classmethod
    def of(cls: type[_Result], content: Mapping[str, Any]) -> _Result:
        """Return the result with the content of a result.json."""
        values = {**_fields(cls, content), "run": Path(content["run"]), "content": content}
        if values.get("baseline") is not None:
            values["baseline"] = Baseline(**_fields(Baseline, values["baseline"]))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of result.json."""
        return deepcopy(dict(self.content))

    def __getitem__(self, name: str) -> Any:
        """Return an entry of result.json."""
        return self.content[name]

    @cached_property
    def architecture(self) -> Architecture:
        """Searched or trained architecture, from the run folder. Raises InputError for a reference network."""
        if not (self.run / ARCHITECTURE_FILE).is_file() and "architecture" in self.content:
            raise InputError(f"{self.content['architecture']} is a reference network and has no architecture")
        return Architecture.load(self.run / ARCHITECTURE_FILE)

    def __repr__(self) -> str:
        return "\n  ".join((f"{type(self).__name__}: {self.run}", *self._lines()))

    def _lines(self) -> list[str]:
        found = verdict.networks(self.content)
        width = max((len(name) for name, _ in found), default=0)
        return [f"{self._title()}, seed {self.seed}", *(f"{name:<{width}}  {_in_words(row)}" for name, row in found)]

    def _title(self) -> str:
        return self.data

    def _repr_html_(self) -> str:
        found = verdict.networks(self.content)
        title = f"{escape(self._title())}, seed {self.seed}"
        header = ("network", "test accuracy", "95% CI", "parameters", "MACs")
        table = _table(header, [(name, *_cells(row)) for name, row in found]) if found else ""
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict.sentences(self.content))
        return f"<div><p><b>{title}</b></p>{table}{said}{self._drawing()}<p>{escape(str(self.run))}</p></div>"

    def _drawing(self) -> str:
        """Return the drawing of the architecture, if the run folder still exists and has one."""
        try:
            file = self.run / DRAWING_FILE
            text = file.read_text("utf-8") if file.is_file() else svg(self.architecture, title=self._title())
        except (OSError, InputError):
            return ""
        # As an image, so that its styles do not affect the page.
        source = base64.b64encode(text.encode()).decode()
        return f'<img alt="architecture" style="max-width: 100%" src="data:image/svg+xml;base64,{source}">'


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchResult(Result):
    """Result of `search`.

    Attributes:
        method, mapping: Method and mapping of the search.
        validation_accuracy: Accuracy of the result on the validation half of the training images; None if it was not
            measured.
        search_seconds: Duration of the search.
    """

    method: str
    mapping: str
    validation_accuracy: float | None
    search_seconds: float

    def _title(self) -> str:
        return f"{self.method} ({self.mapping}) on {self.data}"


@dataclass(frozen=True)
class Baseline:
    """Random baseline: a random network of the same size, trained with the same settings.

    Attributes:
        test_accuracy, test_interval, params, macs: As in `TrainResult`.
        seconds: Duration of its training.
    """

    test_accuracy: float
    test_interval: tuple[float, float]
    params: int
    macs: int
    seconds: float


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainResult(Result):
    """Result of `train`.

    Attributes:
        test_accuracy: Test accuracy after the last epoch, from 0 to 1.
        test_images: Number of test images.
        test_interval: 95% confidence interval of the accuracy (Wilson).
        params: Number of parameters, without the auxiliary head.
        macs: Multiply-accumulates for one image.
        train_seconds: Duration of the training.
        baseline: The random baseline, or None.
    """

    test_accuracy: float
    test_images: int
    test_interval: tuple[float, float]
    params: int
    macs: int
    train_seconds: float
    baseline: Baseline | None = None

    def model(self) -> Classifier:
        """Return the trained network, as `dnas.load(run)` does."""
        return load(self.run)


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult(TrainResult):
    """Result of `run`: as for `train`, and `method`, `mapping`, `validation_accuracy` and `search_seconds` of its
    search as in `SearchResult`. If there were finals, `architecture` is their winner.
    """

    method: str
    mapping: str
    validation_accuracy: float | None
    search_seconds: float

    def _title(self) -> str:
        return f"{self.method} ({self.mapping}) on {self.data}"


@dataclass(frozen=True, kw_only=True, repr=False)
class FrontResult(RunResult):
    """What `run` returns where a limit has several values: one search, and a network for each value.

    Its figures and `model()` are of the network for the largest value, whose run folder holds the others.
    """

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """A row for each value, in ascending order, as result.json has them under `answers`: the `value` of the
        `limit`, what is `used` of it, the figures of the network and its `baseline`, and whether it is on the `front`.
        """
        rows: Sequence[Mapping[str, Any]] = self.content["answers"]
        return rows

    @cached_property
    def runs(self) -> tuple[RunResult, ...]:
        """The result of each value, in ascending order; the last is that of the largest."""
        others = (read_json(self.run / row["run"] / RESULT_FILE) for row in self.rows[:-1])
        own = {name: value for name, value in self.content.items() if name != "answers"}
        return tuple(RunResult.of(content) for content in (*others, own))


def run_result(content: Mapping[str, Any]) -> RunResult:
    """The result of `run` with the content of a result.json."""
    return FrontResult.of(content) if "answers" in content else RunResult.of(content)


def result_of(content: Mapping[str, Any]) -> RunResult | SearchResult | TrainResult:
    """Return the result with the content of a result.json, in the class that its command returns."""
    if content["command"] == "run":
        return run_result(content)
    kinds: dict[str, type[SearchResult] | type[TrainResult]] = {"search": SearchResult, "train": TrainResult}
    return kinds[content["command"]].of(content)


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyResult:
    """Result of `compare`.

    Attributes:
        folder: The study folder.
        failed: The failed runs; the same call retries them.
        content: The content of study.json.
    """

    folder: Path
    failed: tuple[str, ...]
    content: Mapping[str, Any] = field(hash=False)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One row per method and mapping, control and reference, as in study.json."""
        rows: Sequence[Mapping[str, Any]] = self.content["rows"]
        return rows

    @property
    def missing(self) -> tuple[str, ...]:
        """Runs without a result so far."""
        return tuple(self.content["missing"])

    def to_dict(self) -> dict[str, Any]:
        """Return the content of study.json."""
        return deepcopy(dict(self.content))

    def __getitem__(self, name: str) -> Any:
        """Return an entry of study.json."""
        return self.content[name]

    def __repr__(self) -> str:
        rows = [f"{each[0]}: {each[3]}% test error, {each[2]} searches" for each in cells(self.content)]
        return "\n  ".join((f"{type(self).__name__}: {self.folder}", *rows, *_left(self)))

    def _repr_html_(self) -> str:
        differences = difference_cells(self.content)
        tables = _table(HEADER, cells(self.content)) + (_table(DIFFERENCES, differences) if differences else "")
        left = "".join(f"<p>{escape(line)}</p>" for line in _left(self))
        title = escape(str(self.content["data"]))
        return f"<div><p><b>{title}</b></p>{tables}{left}<p>{escape(str(self.folder))}</p></div>"


@dataclass(frozen=True, kw_only=True, repr=False)
class RankingResult:
    """Result of `rank`.

    Attributes:
        folder: The ranking folder.
        architectures: Number of ranked architectures.
        failed: The failed runs; the same call retries them.
        missing: The runs without a result.
        content: The content of ranking.json.
    """

    folder: Path
    architectures: int
    failed: tuple[str, ...]
    missing: tuple[str, ...]
    content: Mapping[str, Any] = field(hash=False)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One row per measure, as in ranking.json: its `tau` with the full training, and `low` and `high`."""
        rows: Sequence[Mapping[str, Any]] = self.content["rows"]
        return rows

    @property
    def values(self) -> Mapping[str, Sequence[float | None]]:
        """Values of each measure per architecture; None if unknown."""
        values: Mapping[str, Sequence[float | None]] = self.content["values"]
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ranking.json."""
        return deepcopy(dict(self.content))

    def __getitem__(self, name: str) -> Any:
        """Return an entry of ranking.json."""
        return self.content[name]

    def __repr__(self) -> str:
        rows = [f"{name}: τ {tau} ({interval}), p {p}" for name, tau, interval, p, *_ in self._cells() if tau]
        return "\n  ".join((f"{type(self).__name__}: {self.folder}", ranking_title(self.content), *rows, *_left(self)))

    def _repr_html_(self) -> str:
        left = "".join(f"<p>{escape(line)}</p>" for line in _left(self))
        title, table = escape(ranking_title(self.content)), _table(RANKING_HEADER, self._cells())
        return f"<div><p><b>{title}</b></p>{table}{left}<p>{escape(str(self.folder))}</p></div>"

    def _cells(self) -> list[tuple[str, ...]]:
        return ranking_cells(self.content)


def _left(result: StudyResult | RankingResult) -> list[str]:
    """Return the failed and missing runs as text."""
    kinds = (("failed", result.failed), ("missing", result.missing))
    return [f"{name}: {', '.join(runs)}" for name, runs in kinds if runs]


def _fields(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of result.json for the fields of a dataclass, with tuples instead of lists."""
    found = {each.name: content[each.name] for each in fields(kind) if each.name in content}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = row["test_interval"]
    return f"{row['test_accuracy']:.4f}", f"{low:.4f}–{high:.4f}", f"{row['params']:,}", f"{row['macs']:,}"


def _in_words(row: Mapping[str, Any]) -> str:
    accuracy, interval, parameters, count = _cells(row)
    return f"test accuracy {accuracy} ({interval}), {parameters} parameters, {count} MACs"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(texts: Sequence[str], kind: str) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in texts)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
