"""The settings of a whole run: checked, completed for the data, written to config.toml and read back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny

from dnas.data.splits import DataInfo
from dnas.errors import InputError, SettingError
from dnas.kernels.native import Backend
from dnas.methods.protocol import Method, SupernetMethod
from dnas.methods.registry import create, get_method
from dnas.network.handmade import HANDMADE, get_handmade, handmade_of_size, require_width
from dnas.options import flag_of
from dnas.parts import registry as parts
from dnas.pipeline import spaces
from dnas.pipeline.limits import check_limits, within_limits
from dnas.pipeline.machine import Device, environment
from dnas.pipeline.presets import (
    CIFAR10_IMAGES,
    CONTINUED,
    DEFAULT_PRESET,
    QUICK_BATCH,
    QUICK_SPACE,
    Preset,
    begun,
    paper_travel,
    preset_settings,
)
from dnas.runtime import distributed
from dnas.searching import finals
from dnas.settings import (
    ARCHITECTURE_SETTINGS,
    AUTO_RESIZE,
    AnswerSettings,
    DataSettings,
    Duration,
    LimitSettings,
    Memory,
    NetworkTrainSettings,
    SearchSettings,
    Settings,
    SupernetSettings,
    TrainSettings,
    WidthTrainSettings,
)
from dnas.space.darts import DARTS
from dnas.space.network_plan import check_channels, check_width
from dnas.space.registry import AUTO, get_space
from dnas.supernet.mapping import SHARED
from dnas.supernet.worth import AUTO_PRIOR, NO_PRIOR, load_prior
from dnas.validation import checked

FINALISTS = 4  # for runs whose length is automatic: with a budget, or the unchanged quick preset
# Settings that a budget determines, which therefore cannot be used with one.
BUDGETED = {"search": ("epochs", "images", "seconds", "steps", "trials"), "train": ("epochs", "images", "steps")}


class Config(Settings):
    """Settings of a whole run."""

    format: Literal["dnas-run/1"] = "dnas-run/1"
    command: Literal["run", "search", "train"] = "run"
    preset: Preset = Field(
        DEFAULT_PRESET,
        description="set of default settings. quick: takes minutes on two cores; paper: the settings of the method's "
        "paper; shared: the settings of DARTS for every method",
    )
    method: str = Field("dnas", description="search method; `dnas methods` lists all")
    mapping: str = Field(
        "", description="parameter sharing scheme: shared, full or decoupled; empty: that of the method"
    )
    with_parts: list[str] = Field(
        default_factory=list, description="parts added to the method; `dnas methods --parts` lists all"
    )
    space: str = Field(
        "darts",
        description="search space, as in `dnas list spaces`, or auto: several, whose candidates meet in the finals",
    )
    widths: dict[str, int] = Field(
        default_factory=dict,
        description="initial channels of the networks of each space, if `space` is auto; the first is searched. Empty: "
        "those of the preset, within the limits",
    )
    architecture: str = Field("", description="source of the architecture for `dnas train`")
    handmade: str = Field("", description="reference network for `dnas train`, instead of an architecture")
    from_run: str = Field(
        "",
        description="run whose trained weights are the initial weights of `dnas train`; if the classes are "
        "the same, its "
        f"learning rates are {CONTINUED} times those of a training from scratch, unless they are given",
    )
    budget: Duration = Field(
        0.0,
        ge=0,
        description='processor time for the whole run, in seconds or a text such as "10m", instead of epochs: dnas '
        "measures the speed of the machine and plans the epochs that fit; 0: no budget",
    )
    finals: int = Field(
        0,
        ge=0,
        le=64,
        description="number of candidates that start the training, of which only the best is trained to the end: the "
        "searched network, some from a prior, second choices, published and random ones; 0: no finals; 4 by "
        "default with a budget, and in the quick preset unless epochs or images are given, or 2 per space of several",
    )
    finals_steps: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list,
        description="steps for which each candidate of the finals would be trained; empty: the same for all",
    )
    prior: str = Field(
        NO_PRIOR,
        description="prior from which half of the candidates of the finals are drawn: none, the name of a "
        "prior, a file "
        "written by benchmarks/prior.py, or auto: pictures, if the training is at most twice as long as "
        "those behind it; "
        "runs with finals, the quick preset and the darts space have auto by default",
    )
    baseline_steps: int = Field(
        0, ge=0, description="steps of the training of the baseline; 0: the same as for the network"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="random seed of the run, which determines every draw")
    device: Device = Field(
        "cpu", description="cpu or cuda; --device auto, the default, selects cuda if torch supports it"
    )
    deterministic: bool = Field(
        False, description="make GPU results bitwise reproducible as well, at some cost in speed"
    )
    backend: Backend = Field(
        "auto",
        description="native: compiled kernels on the CPU; torch: PyTorch only; auto: native if there is a C compiler",
    )
    baseline: bool = Field(True, description="also train a random architecture of the same size")
    data: DataSettings = DataSettings()
    search: SerializeAsAny[SearchSettings] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    with_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    train: SerializeAsAny[NetworkTrainSettings] | None = None
    limits: LimitSettings | None = None
    answers: list[AnswerSettings] = Field(default_factory=list)
    origin: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)

    def to_toml(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


def train_settings(handmade: str) -> type[NetworkTrainSettings]:
    """Return the class of training settings for a reference network, or for an architecture if the name is empty."""
    if handmade not in HANDMADE:
        return TrainSettings
    return WidthTrainSettings if HANDMADE[handmade].has_width else NetworkTrainSettings


def sections(method: type[Method], handmade: str = "") -> dict[str, type[BaseModel]]:
    """Return the tables of a configuration file with their settings, for this method and network; "" is the top."""
    return {
        "": Config,
        "search": method.Settings,
        "options": method.Options,
        "train": train_settings(handmade),
        "data": DataSettings,
        "limits": LimitSettings,
    }


def draft(overrides: Mapping[str, Any]) -> tuple[Config, Method]:
    """Check the settings of a run as far as possible without images, and return them with automatic values unresolved.

    Raises:
        InputError: A value, a name or a combination that is invalid for any images.
    """
    data = parse({**overrides, "search": None, "train": None}).data
    # A placeholder: presets are valid for any number and size of images.
    info = DataInfo(data.source, (), 3, data.image_size or 32, (), (), flip=False)
    config, method = _composed(overrides, info, CIFAR10_IMAGES)
    if config.finals and config.finals_steps and len(config.finals_steps) != config.finals:
        raise InputError(
            f"finals_steps must have one number per candidate ({config.finals}), got {len(config.finals_steps)}; or "
            "remove it"
        )
    if config.from_run:
        _check_origin(config)
    spaces.check(config)
    if config.prior != NO_PRIOR:
        if not config.finals:
            raise InputError(f"--prior {config.prior} only applies to finals; add --finals or remove it")
        if load_prior(config.prior).space.name not in spaces.names(config):
            raise InputError(f"--prior {config.prior} is for another space than {config.space!r}; use --prior none")
    if config.limits is not None:
        check_limits(config.limits, config.command, spaces.names(config)[0])
        if config.limits.several and distributed.count() > 1:
            raise InputError("several values of a limit are trained for one by one, which ranks do not share; give one")
    if data.workers and data.memory == "whole":
        raise InputError(
            f"--data-workers {data.workers} only applies to streamed images, not to --data-memory whole; remove one"
        )
    if config.command != "train":
        assert config.search is not None
        if isinstance(method, SupernetMethod):
            check_width(config.search.channels, method.options.partial_channels)
        else:
            check_channels(config.search.channels, "search.channels")
        config.search.check()
        parts.check(parts.create(config.with_parts, config.with_options), method, config.search)
        if isinstance(config.search, SupernetSettings):
            distributed.check_parts(config.search.parts, "search")
    if config.command != "search":
        train = config.train
        assert train is not None
        if isinstance(train, TrainSettings):
            if config.command == "run" and method.mapping_name != SHARED:
                assert config.search is not None
                if train.layers not in (0, config.search.layers):
                    raise SettingError(
                        "train.layers",
                        "--train-layers",
                        f" {train.layers} does not match the searched depth of {config.search.layers}; another depth "
                        "requires --mapping shared",
                    )
            check_channels(train.channels, "train.channels")
        train.check()
        distributed.check_parts(train.parts, "train")
    return config, method


def _check_origin(config: Config) -> None:
    """Raise InputError for settings that do not apply to a training that starts with the weights of a run."""
    if config.command != "train":
        raise InputError(f"from_run={config.from_run!r} does not apply to `dnas {config.command}`; remove it")
    if config.baseline:
        raise InputError(
            f"--baseline cannot be used with --from {config.from_run}: a random network would start without weights"
        )


def check_budget(overrides: Mapping[str, Any]) -> None:
    """Raise InputError for settings that a budget determines, and if a budget cannot be used."""
    count = overrides.get("finals", 0)
    if count and overrides.get("command", "run") != "run":
        raise InputError(f"--finals {count} does not apply to `dnas {overrides['command']}`, which has one candidate")
    if count == 1:
        raise InputError("--finals must be 0 or at least 2, got 1")
    if count and distributed.count() > 1:
        raise InputError("--finals trains candidates one by one and cannot be used with several ranks; use --finals 0")
    if not overrides.get("budget"):
        return
    for section, names in BUDGETED.items():
        for name in names:
            if overrides.get(section, {}).get(name):
                key = f"{section}.{name}"
                raise SettingError(key, flag_of(key), " cannot be used with --budget, which decides it; remove one")
    if distributed.count() > 1:
        raise InputError("--budget cannot be used with several ranks; use --epochs instead")


def _any_search_will_do(chosen: Mapping[str, Any], own: Config) -> bool:
    """Return True for a quick run in which nothing about the search is chosen, so that it uses `QUICK_SPACE`."""
    of_search = {"space", "method", "mapping", "with_parts", "with_options", "options", "prior"}
    latency = own.limits is not None and bool(own.limits.latency)
    return own.command == "run" and own.preset == "quick" and not of_search & chosen.keys() and not latency


def _composed(
    overrides: Mapping[str, Any], info: DataInfo, count: int, found: Mapping[str, Any] | None = None
) -> tuple[Config, Method]:
    """Return the settings over those of preset and method, each value checked separately, and the method.

    Args:
        info, count: Facts about the training images, and their number.
        found: Further values of the configuration that are not chosen by the user.
    """
    chosen = {**overrides, "data": {"resize": AUTO_RESIZE, **overrides.get("data", {})}}
    own = parse({**chosen, "search": None, "train": None})
    if "finals" not in chosen and own.command == "run" and (own.budget or _left_to_the_preset(chosen, count)):
        several = own.space == AUTO
        chosen["finals"] = spaces.PLACES * len(spaces.names(own)) if several else FINALISTS
        own = own.model_copy(update={"finals": chosen["finals"]})
    if own.finals and _any_search_will_do(chosen, own):
        chosen["space"] = QUICK_SPACE
        own = own.model_copy(update={"space": QUICK_SPACE})
    if own.finals and "prior" not in chosen and own.preset == "quick" and DARTS.name in spaces.names(own):
        chosen["prior"] = AUTO_PRIOR
    kind = get_method(own.method)
    preset = {"quick": kind.quick.get("options", {}), "paper": kind.paper_options}.get(own.preset, {})
    space = get_space(spaces.names(own)[0])
    method = create(own.method, own.mapping or None, {**preset, **own.options}, space)
    taken = parts.create(own.with_parts, own.with_options)
    seconds = own.budget / 2 if own.baseline and own.command == "run" else own.budget
    of_preset = partial(preset_settings, own.preset, method, info, count, handmade=bool(own.handmade), seconds=seconds)
    base = of_preset(finals=bool(own.finals and not own.budget))
    if own.space == AUTO:
        each = {name: of_preset(space=get_space(name)) for name in spaces.names(own)}
        widths = {name: TrainSettings(**settings["train"]).channels for name, settings in each.items()}
        chosen |= spaces.chosen(own, chosen.get("train", {}), widths)
    if own.from_run:
        # Learning rates of that run that are not from its preset are also lowered.
        rates, new_head = own.origin.get("rates", {}), bool(own.origin.get("new_head"))
        base["train"] = begun({**base["train"], **rates}, chosen.get("train", {}), new_head)
    fields = train_settings(own.handmade).model_fields
    base["train"] = {key: value for key, value in base["train"].items() if key in fields}
    if distributed.count() > 1:
        base["train"]["parts"] = distributed.count()
        if isinstance(method, SupernetMethod):
            base["search"]["parts"] = distributed.count()
        elif own.command != "train":
            raise InputError(
                f"--method {method.name} trains candidates one by one and cannot be used with torchrun; start it "
                "directly, and use -o search.processes"
            )
    config = parse(
        {
            **chosen,
            "mapping": method.mapping_name,
            "options": method.options.model_dump(exclude_none=True),
            "with_options": {part.name: part.options.model_dump(exclude_none=True) for part in taken},
            "search": {**base["search"], **chosen.get("search", {})},
            "train": {**base["train"], **chosen.get("train", {})},
            **(found or {}),
        }
    )
    return config, method


def _left_to_the_preset(chosen: Mapping[str, Any], count: int) -> bool:
    """Return True if the length of a quick run is not given, and it can have finals."""
    config = parse(chosen)
    for section, names in BUDGETED.items():
        settings = getattr(config, section)
        if settings is not None and settings.model_fields_set & set(names):
            return False
    batch_size = QUICK_BATCH
    if config.train is not None and "batch_size" in config.train.model_fields_set:
        batch_size = config.train.batch_size
    return config.preset == "quick" and distributed.count() == 1 and finals.tell_apart(count, batch_size)


def resolve(
    overrides: Mapping[str, Any], info: DataInfo, count: int, fingerprint: str, memory: Memory = "whole"
) -> tuple[Config, Method]:
    """Return the resolved configuration and its method.

    Args:
        overrides: Nested values of the configuration file and command line, e.g. {"search": {"layers": 8}}.
        info, count, fingerprint, memory: Facts about the training split.

    Raises:
        InputError: An invalid value or combination, with its name.
    """
    own, _ = draft(overrides)
    data = {
        **overrides.get("data", {}),
        "image_size": info.image_size,
        "resize": info.resize,
        "memory": memory,
        "train_images": count,
        "fingerprint": fingerprint,
    }
    found = {"data": data, "environment": environment(own.handmade)}
    config, method = _composed(overrides, info, count, found)
    assert config.search is not None and config.train is not None
    updates: dict[str, Any] = {"search": None, "train": None}
    if config.command == "search":
        updates["baseline"] = False
    if config.command != "train":
        # On a GPU parallel trials would share its memory, and one trial fills it.
        threads = int(config.environment["threads"]) if config.device == "cpu" else 1
        updates["search"] = config.search.resolved(count, paper_travel(method), info.image_size, threads)
    else:
        updates |= {"method": "", "mapping": "", "options": {}, "with_parts": [], "with_options": {}}
    if config.command != "search":
        train = config.train.resolved(count, info.image_size)
        if config.finals:
            finals.check_images(train.images, train.batch_size)
        if isinstance(train, WidthTrainSettings) and train.params:
            width = handmade_of_size(config.handmade, train.params, len(info.classes), info.channels)
            train = train.model_copy(update={"width": width, "params": 0})
        updates["train"] = train
    resolved = config.model_copy(update=updates)
    own_width = "channels" in overrides.get("train", {}) or "widths" in overrides
    if config.limits is not None and config.space == AUTO:
        return spaces.within_limits(resolved, info, planned=not own_width), method
    if config.limits is not None:
        train = resolved.train or config.train
        assert isinstance(train, TrainSettings)
        answers = _answers(resolved, train, info, planned=not own_width)
        train, limits = within_limits(resolved, train, info, planned=not own_width)
        kept: dict[str, Any] = {"limits": limits, "answers": answers}
        resolved = resolved.model_copy(update=kept if resolved.train is None else {**kept, "train": train})
    return resolved, method


def _answers(config: Config, train: TrainSettings, info: DataInfo, *, planned: bool) -> list[AnswerSettings]:
    """What is planned for all but the largest of several values of a limit; see `within_limits`."""
    assert config.limits is not None
    tighter, answers = config.limits.tighter, config.answers
    if answers and len(answers) != len(tighter):
        raise InputError(
            f"answers has {len(answers)} tables, which is for {len(answers) + 1} values of a limit; leave them out"
        )
    found = []
    for number, limits in enumerate(tighter):
        own = train.model_copy(update={"channels": answers[number].channels}) if answers else train
        if answers:
            limits = limits.model_copy(update={"times": answers[number].times})
        narrowed = config.model_copy(update={"limits": limits})
        own, limits = within_limits(narrowed, own, info, planned=planned and not answers)
        known = answers[number] if answers else AnswerSettings(channels=own.channels)
        found.append(known.model_copy(update={"channels": own.channels, "times": limits.times}))
    return found


def parse(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping. Raises InputError with the first invalid key, its value and the problem."""
    values = dict(values)
    name = values.get("method", Config.model_fields["method"].default)
    if isinstance(values.get("search"), Mapping) and isinstance(name, str) and name:
        own = get_method(name).Settings
        values["search"] = checked(own, values["search"], "search", f" of method {name}", f"`dnas methods {name}`")
    handmade = values.get("handmade", "")
    if isinstance(handmade, str) and handmade:
        _check_handmade(handmade, values)
    if isinstance(values.get("train"), Mapping):
        require_width(str(handmade), values["train"])
        values["train"] = checked(train_settings(str(handmade)), values["train"], "train")
    return checked(Config, values)


def _check_handmade(name: str, values: Mapping[str, Any]) -> None:
    """Raise InputError for an unknown name, and for settings that only apply to an architecture."""
    get_handmade(name)
    command = values.get("command", Config.model_fields["command"].default)
    if command != "train":
        raise InputError(f"handmade={name!r} does not apply to `dnas {command}`; use `dnas train {name}`")
    if values.get("baseline"):
        raise InputError(f"--baseline cannot be used with {name}: the random baseline is only for searched networks")
    useless = [key for key in values.get("train") or () if key in ARCHITECTURE_SETTINGS]
    if useless:
        key = f"train.{useless[0]}"
        raise SettingError(key, flag_of(key), f" cannot be used with {name}, which has a fixed shape; remove it")
