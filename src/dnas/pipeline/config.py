"""The settings of a whole run: checked, completed for the data, written to config.toml and read back."""

from __future__ import annotations

from collections.abc import Mapping
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
from dnas.pipeline.limits import check_limits, within_limits
from dnas.pipeline.machine import Device, environment
from dnas.pipeline.presets import (
    CIFAR10_IMAGES,
    CONTINUED,
    DEFAULT_PRESET,
    QUICK_BATCH,
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
from dnas.space.plan import check_channels, check_width
from dnas.space.registry import get_space
from dnas.supernet.mapping import SHARED
from dnas.supernet.worth import AUTO_PRIOR, NO_PRIOR, load_prior
from dnas.validation import checked

FINALISTS = 4  # of a run whose length is left to the program: with a budget, or the quick preset as it is
# What a budget decides, so it cannot be given beside one.
BUDGETED = {"search": ("epochs", "images", "seconds", "steps", "trials"), "train": ("epochs", "images", "steps")}


class Config(Settings):
    """A whole run."""

    format: Literal["dnas-run/1"] = "dnas-run/1"
    command: Literal["run", "search", "train"] = "run"
    preset: Preset = Field(
        DEFAULT_PRESET,
        description="quick: minutes on two cores; paper: the settings of the method's paper; shared: DARTS' for every "
        "method",
    )
    method: str = Field("dnas", description="how to search: a name that `dnas methods` lists")
    mapping: str = Field(
        "", description="how parameters describe the layers: shared, full or decoupled; empty: the method's own"
    )
    with_parts: list[str] = Field(
        default_factory=list, description="what is added to the method: names that `dnas methods --parts` lists"
    )
    space: str = Field("darts", description="what is searched in: darts, s1, s2, s3, s4, or another package's")
    architecture: str = Field("", description="what `train` was given")
    handmade: str = Field("", description="the hand-made network that `train` trains in place of an architecture")
    from_run: str = Field(
        "",
        description="the run with whose trained weights `train` begins; where the classes are the same, its learning "
        f"rates are then {CONTINUED} times those of a training from nothing, unless they are given",
    )
    budget: Duration = Field(
        0.0,
        ge=0,
        description='time that a run may take, in seconds or a text such as "10m", in place of epochs: the machine is '
        "measured, and what it can do in that time is planned; 0: as many epochs as are given",
    )
    finals: int = Field(
        0,
        ge=0,
        le=64,
        description="candidates that begin the training, of which the best goes on: what was found, some of a "
        "prior, second choices, published cells and random ones; 0: none; 4 by default in a run with "
        "a budget, and in one by the quick preset of which neither epochs nor images are given",
    )
    finals_steps: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list,
        description="steps that each candidate of the finals would be trained for; empty: all alike",
    )
    prior: str = Field(
        NO_PRIOR,
        description="what half of the candidates of the finals are drawn from: none, a prior's name, a file that "
        "benchmarks/prior.py wrote, or auto: pictures, where the training is no longer than twice those that it was "
        "made of; a run with finals has auto by default, where the preset is quick and the space darts",
    )
    baseline_steps: int = Field(0, ge=0, description="steps of the baseline's training; 0: as many as the network's")
    seed: int = Field(0, ge=0, lt=2**63, description="decides every random draw")
    device: Device = Field("cpu", description="cpu or cuda; --device auto, the default, takes cuda where torch has it")
    deterministic: bool = Field(False, description="bit-for-bit equal results on a GPU too, which costs speed")
    backend: Backend = Field(
        "auto",
        description="native: compiled kernels on the CPU; torch: without; auto: native where there is a C compiler",
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
    """The settings of a training: of a hand-made network, or where none has that name of an architecture."""
    if handmade not in HANDMADE:
        return TrainSettings
    return WidthTrainSettings if HANDMADE[handmade].has_width else NetworkTrainSettings


def sections(method: type[Method], handmade: str = "") -> dict[str, type[BaseModel]]:
    """The tables of a configuration file and what they can hold, with this method and network; "" is its top."""
    return {
        "": Config,
        "search": method.Settings,
        "options": method.Options,
        "train": train_settings(handmade),
        "data": DataSettings,
        "limits": LimitSettings,
    }


def draft(overrides: Mapping[str, Any]) -> tuple[Config, Method]:
    """Check the settings of a run as far as no image is needed, and return them before automatic values are resolved.

    Raises:
        InputError: A value, a name or a combination that cannot work, whatever the images are.
    """
    data = parse({**overrides, "search": None, "train": None}).data
    # A stand-in: what the presets make of the number and the size of images is in order for any.
    info = DataInfo(data.source, (), 3, data.image_size or 32, (), (), flip=False)
    config, method = _composed(overrides, info, CIFAR10_IMAGES)
    if config.finals and config.finals_steps and len(config.finals_steps) != config.finals:
        raise InputError(
            f"finals_steps has {len(config.finals_steps)} numbers, and --finals is {config.finals}; give one for each, "
            "or leave finals_steps out"
        )
    if config.from_run:
        _check_origin(config)
    if config.prior != NO_PRIOR:
        if not config.finals:
            raise InputError(f"--prior {config.prior} has no use without finals; give --finals, or leave it out")
        if load_prior(config.prior).space.name != config.space:
            raise InputError(f"--prior {config.prior} is not of the {config.space} space; give --prior none")
    if config.limits is not None:
        check_limits(config.limits, config.command)
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
    """Raises InputError for what a training that begins with the weights of a run has no use for."""
    if config.command != "train":
        raise InputError(f"from_run is {config.from_run!r}, which `dnas {config.command}` has no use for; leave it out")
    if config.baseline:
        raise InputError(
            f"--baseline has no use with --from {config.from_run}: a random network would begin without weights"
        )


def check_budget(overrides: Mapping[str, Any]) -> None:
    """Raises InputError for what a budget decides beside it, and where none can be kept."""
    count = overrides.get("finals", 0)
    if count and overrides.get("command", "run") != "run":
        raise InputError(f"--finals {count} has no use with `dnas {overrides['command']}`, which has one candidate")
    if count == 1:
        raise InputError("--finals must be 0 or at least 2, got 1")
    if count and distributed.count() > 1:
        raise InputError("--finals trains candidates one by one, which ranks do not share; give --finals 0")
    if not overrides.get("budget"):
        return
    for section, names in BUDGETED.items():
        for name in names:
            if overrides.get(section, {}).get(name):
                key = f"{section}.{name}"
                raise SettingError(key, flag_of(key), " cannot be used with --budget, which decides it; remove one")
    if distributed.count() > 1:
        raise InputError("--budget plans for one process, not for several ranks; give --epochs instead")


def _composed(
    overrides: Mapping[str, Any], info: DataInfo, count: int, found: Mapping[str, Any] | None = None
) -> tuple[Config, Method]:
    """The settings with those of preset and method below them, each value checked by itself, and the method.

    Args:
        info, count: Of the training images.
        found: More of the configuration, which is nobody's choice.
    """
    chosen = {**overrides, "data": {"resize": AUTO_RESIZE, **overrides.get("data", {})}}
    own = parse({**chosen, "search": None, "train": None})
    if "finals" not in chosen and own.command == "run" and (own.budget or _left_to_the_preset(chosen, count)):
        chosen["finals"] = FINALISTS
        own = own.model_copy(update={"finals": FINALISTS})
    if own.finals and "prior" not in chosen and own.preset == "quick" and own.space == DARTS.name:
        chosen["prior"] = AUTO_PRIOR
    kind = get_method(own.method)
    preset = {"quick": kind.quick.get("options", {}), "paper": kind.paper_options}.get(own.preset, {})
    method = create(own.method, own.mapping or None, {**preset, **own.options}, get_space(own.space))
    taken = parts.create(own.with_parts, own.with_options)
    base = preset_settings(
        own.preset,
        method,
        info,
        count,
        handmade=bool(own.handmade),
        finals=bool(own.finals and not own.budget),
    )
    if own.from_run:
        # Rates of that run which no preset chose are its own, and lowered as a preset's.
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
                f"--method {method.name} trains candidates one by one, which ranks do not share; start it without "
                "torchrun, and give -o search.processes"
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
    """Whether nobody says how long a quick run is, and its finals can be held."""
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
    """The configuration in force, and its method.

    Args:
        overrides: Nested values of the configuration file and command line, e.g. {"search": {"layers": 8}}.
        info, count, fingerprint, memory: Of the training split.

    Raises:
        InputError: A value or combination that cannot work, with its name.
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
        # On a GPU trials would share its memory, and one fills it.
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
    if config.limits is not None:
        train = resolved.train or config.train
        assert isinstance(train, TrainSettings)
        own_width = "channels" in overrides.get("train", {})
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
    """Check a nested mapping. Raises InputError naming the first key, its value and what is wrong."""
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
    """Raises InputError for a name that is not known, and for what only an architecture has use for."""
    get_handmade(name)
    command = values.get("command", Config.model_fields["command"].default)
    if command != "train":
        raise InputError(f"handmade is {name!r}, which `dnas {command}` has no use for; use `dnas train {name}`")
    if values.get("baseline"):
        raise InputError(f"--baseline has no use with {name}: a random network of the same size is a search's control")
    useless = [key for key in values.get("train") or () if key in ARCHITECTURE_SETTINGS]
    if useless:
        key = f"train.{useless[0]}"
        raise SettingError(key, flag_of(key), f" has no use with {name}, whose shape is its own; leave it out")
