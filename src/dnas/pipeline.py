"""The pipeline: search, derive, train, test, draw, in one run folder; started, or resumed to the same bits.

`start` checks everything that can be wrong with the input before it makes the run folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from dnas import draw, ranks, stages
from dnas.architecture import Architecture, at_depth
from dnas.checkpoint import newest
from dnas.config import Config, draft, environment, parse, resolve
from dnas.data import DataInfo, Split, fingerprint, load_splits, load_train
from dnas.errors import InputError, RunError, calling
from dnas.estimate import LABELS
from dnas.execution import DEFAULT, Execution
from dnas.flips import resolve_flips
from dnas.handmade import PACKAGE, HandMade, build_handmade, get_handmade, torchvision_models
from dnas.kernels import native
from dnas.memory import amount, is_short, shortage
from dnas.methods import Method, Progress, SupernetMethod, create
from dnas.model import MODEL_FILE, first_line, model_bytes, read_tensors
from dnas.network import macs, params
from dnas.options import add_options, in_file
from dnas.overview import overview
from dnas.progress import Reporter
from dnas.runfolder import RunFolder, fresh_path, read_toml, refuse_used
from dnas.scalars import require_tensorboard
from dnas.searcher import search_architecture
from dnas.session import Session
from dnas.settings import GradientSettings, SearchSettings, TrainSettings
from dnas.space import get_space
from dnas.trainer import Accuracy, built, measure_accuracy, planned, random_of_size, train_network
from dnas.training_images import TRAINING_IMAGES_FILE, TrainingImages

PARAMETERS_FILE = "architecture_parameters.safetensors"


# What a run is about: an architecture, searched or given, or a network that people designed.
Subject = Architecture | HandMade


@dataclass(frozen=True)
class Data:
    """What a run reads. `test` is None where nothing is tested, and search is never handed it."""

    train: Split
    info: DataInfo
    test: Split | None
    fingerprint: str

    def close(self) -> None:
        """End the processes that decode."""
        for split in (self.train, self.test):
            if split is not None:
                split.close()


def load_data(config: Config, reporter: Reporter | None = None) -> Data:
    """Both splits of the configured data set. Raises InputError."""
    test: Split | None = None
    # What is downloaded or listed for the first time is so by one process of a machine.
    with ranks.first_on_machine():
        if config.command == "search":
            train, info = load_train(config.data.source, **_reading(config, reporter))
        else:
            # Both are held in one way, which is then in config.toml, so that a resumed run decides nothing anew.
            train, info, test = load_splits(config.data.source, **_reading(config, reporter))
    prints = [fingerprint(split) for split in (train, test) if split is not None]
    return Data(train, info, test, "-".join(p[:32] for p in prints))


def _reading(config: Config, reporter: Reporter | None) -> dict[str, Any]:
    """How the images are read."""
    data = config.data
    return {
        "data_dir": data.data_dir or None,
        "image_size": data.image_size or None,
        "memory": data.memory,
        "workers": data.workers,
        "reporter": reporter,
    }


def checked_draft(overrides: Mapping[str, Any]) -> Config:
    """Check all that can be checked before any image is read, and choose the backend. Raises InputError."""
    config, _ = draft(overrides)
    check_machine(config)
    return config


def check_runs(runs: Sequence[Mapping[str, Any]], *, here: bool, reporter: Reporter | None = None) -> DataInfo:
    """Check the settings of runs with the same images, as `start` would. Returns what is known of the images.

    Args:
        runs: Overrides, as of `start`.
        here: They are made on this machine, so it must have what they need.

    Raises:
        InputError: One of them cannot begin.
    """
    drafts = [checked_draft(run) if here else draft(run)[0] for run in runs]
    train, info = load_train(drafts[0].data.source, **_reading(drafts[0], reporter))
    if reporter is not None:
        for line in overview(info, train):
            reporter.say(line)
    for run in runs:
        resolve(run, info, len(train), "", train.memory)
    return info


def start(
    overrides: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    architecture: Architecture | None = None,
    reporter: Reporter | None = None,
    execution: Execution = DEFAULT,
) -> dict[str, Any]:
    """Begin a run and carry it through. Returns the content of result.json.

    Args:
        overrides: Nested settings over the preset's, e.g. {"command": "search", "search": {"layers": 8}}.
        out: The run folder; by default a new one under runs/.
        architecture: For the command "train", unless `overrides` name a hand-made network.

    Raises:
        InputError: Before anything is written.
        RunError: The run failed; its folder can be resumed.
    """
    check_execution(execution)
    config = checked_draft(overrides)
    if architecture is not None and isinstance(config.train, TrainSettings):
        architecture = at_depth(architecture, config.train.layers)
    for text in (config.data.source, config.data.data_dir, str(out or "")):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{text!r} is not UTF-8, so config.toml cannot hold it; rename the folder") from None
    with ranks.joined(config.device):
        return _begin(overrides, out, architecture, reporter if ranks.leads() else None, execution)


def _begin(
    overrides: Mapping[str, Any],
    out: str | Path | None,
    architecture: Architecture | None,
    reporter: Reporter | None,
    execution: Execution,
) -> dict[str, Any]:
    if out is not None and ranks.leads():
        refuse_used(Path(out))
    # Once more, since some settings depend on the number of ranks, which is known by now.
    data = load_data(draft(overrides)[0], reporter)
    config, method = resolve(overrides, data.info, len(data.train), data.fingerprint, data.train.memory)
    config, flips = resolve_flips(config, data.train, data.info)
    if architecture is not None and isinstance(config.train, TrainSettings):
        planned(architecture, config.train, data.info)
    name = config.handmade or (method.name if architecture is None else "train")
    stem = f"{name}-{Path(config.data.source).name or 'data'}-seed{config.seed}"
    path = ranks.from_first(fresh_path(Path("runs"), stem) if out is None else Path(out))
    with RunFolder.create(path) if ranks.leads() else RunFolder(path, writes=False) as folder:
        if architecture is not None:
            folder.write_text("architecture.json", architecture.dumps())
        # Last: a folder is a run folder from the moment that it has a config.toml.
        folder.write_config(config.to_toml())
        _keep_training_images(folder, data)
        ranks.wait()
        session = Session(folder, config.to_toml(), reporter, execution)
        session.say(f"{path}: {config.command}, preset {config.preset}, seed {config.seed}")
        for line in overview(data.info, data.train, data.test):
            session.say(line)
        if flips:
            session.say(flips)
        if config.device == "cpu" and (advice := native.advice()):
            session.say(advice)
        return _carry_through(config, method, data, folder, session)


def _keep_training_images(folder: RunFolder, data: Data) -> None:
    if folder.writes:
        folder.write_bytes(TRAINING_IMAGES_FILE, TrainingImages.of(data.train, data.info).to_bytes())


def resume(path: str | Path, *, reporter: Reporter | None = None, execution: Execution = DEFAULT) -> dict[str, Any]:
    """Go on from the last checkpoint; the result is equal, to the bit, to that of an undisturbed run.

    Of a run that has ended it is the result that is there.

    Raises:
        InputError: Not a run folder, in use, or its configuration, data or format has changed.
    """
    path = Path(path)
    device = read_toml(path / "config.toml").get("device", "cpu") if (path / "config.toml").is_file() else "cpu"
    with ranks.joined(device):
        return _resume(path, reporter if ranks.leads() else None, execution)


def _resume(path: Path, reporter: Reporter | None, execution: Execution) -> dict[str, Any]:
    with ExitStack() as opened:
        if ranks.leads():
            folder = opened.enter_context(RunFolder.reopen(path, execution.patience))
        # What the first rank clears away and begins to write is no matter of the others, who read now.
        ranks.wait()
        if not ranks.leads():
            folder = opened.enter_context(RunFolder(path, writes=False))
        values = folder.read_config()
        with calling(in_file(values, folder.path / "config.toml")):
            config = parse(values)
        if (folder.path / "result.json").exists():
            result: dict[str, Any] = json.loads((folder.path / "result.json").read_text("utf-8"))
            return result
        check_execution(execution)
        check_machine(config)
        # The number of threads decides the order of sums, so a resumed run takes the first one's.
        torch.set_num_threads(int(config.environment.get("threads", torch.get_num_threads())))
        # As the file has it: a newer dnas may have settings that it did not know.
        session = Session(folder, values, reporter, execution)
        session.resume()
        ranks.wait()
        data = load_data(config, reporter)
        session.skip_time()
        if data.fingerprint != config.data.fingerprint:
            raise InputError(
                f"{path} cannot be resumed: the images of {config.data.source} have changed since it began; "
                "restore them or start a new run"
            )
        if not (path / TRAINING_IMAGES_FILE).is_file():
            _keep_training_images(folder, data)  # begun by an earlier version, or stopped before it was written
        now = environment(config.handmade)
        for key in ("dnas", "torch", PACKAGE, "kernels"):
            if config.environment.get(key) != now.get(key):
                session.say(
                    f"warning: begun with {key} {config.environment.get(key)}, resumed with {now.get(key)}: "
                    "the result may differ in its last bits"
                )
        if (began := config.environment.get("ranks", 1)) != ranks.count():
            session.say(
                f"begun on {began} ranks, resumed on {ranks.count()}: a batch keeps its parts, so the result may "
                "differ in its last bits only"
            )
        method = None
        if config.method:
            method = create(config.method, config.mapping or None, config.options, get_space(config.space))
        return _carry_through(config, method, data, folder, session)


def _carry_through(
    config: Config, method: Method | None, data: Data, folder: RunFolder, session: Session
) -> dict[str, Any]:
    if config.deterministic:
        torch.use_deterministic_algorithms(True)
    session.estimate = stages.estimate(config, method, data.train, data.test, data.info)
    with session.signals(), memory_errors(config.device), closing(data):
        if config.search is not None:
            assert method is not None
            subject: Subject = _search(config, method, data, folder, session)
        elif config.handmade:
            subject = get_handmade(config.handmade)
        else:
            subject = Architecture.load(folder.path / "architecture.json")
        result = summary(config, subject, data.info, folder.path)
        if config.train is not None:
            result |= _train(config, subject, data, folder, session)
        if config.search is not None:
            done = session.completed["search"]
            result |= {"validation_accuracy": done["validation_accuracy"], **done["cost"]}
        result["search_seconds"] = round(session.seconds.get("search", 0.0), 3)
        result["train_seconds"] = round(session.seconds.get("train", 0.0), 3)
        result["peak_memory_bytes"] = peak_memory(config.device)
        folder.write_json("result.json", result)
    return result


def _search(config: Config, method: Method, data: Data, folder: RunFolder, session: Session) -> Architecture:
    assert config.search is not None
    if "search" in session.completed:
        return Architecture.from_json(session.completed["search"]["architecture"])
    found = search_architecture(
        method, config.search, data.train, data.info, seed=config.seed, session=session, device=config.device
    )
    architecture = found.architecture
    if isinstance(config.train, TrainSettings):
        architecture = at_depth(architecture, config.train.layers)
    if found.parameters:
        folder.write_bytes(PARAMETERS_FILE, safetensors.torch.save(found.parameters))
    folder.write_text("architecture.json", architecture.dumps())
    folder.write_text("architecture.svg", picture(architecture, config))
    known = {"cost": found.cost, "validation_accuracy": found.validation_accuracy}
    session.complete({"architecture": architecture.to_json(), **known})
    return architecture


def _train(config: Config, subject: Subject, data: Data, folder: RunFolder, session: Session) -> dict[str, Any]:
    """Train and test what a run is about and, as an architecture's control, a random one of the same size."""

    def keep(network: nn.Module) -> None:
        assert config.train is not None
        folder.write_bytes(MODEL_FILE, model_bytes(network, subject, config.train, data.info))
        if isinstance(subject, Architecture) and not (folder.path / "architecture.svg").exists():
            folder.write_text("architecture.svg", picture(subject, config))

    other = None
    if config.baseline and isinstance(subject, Architecture):
        assert isinstance(config.train, TrainSettings) and session.estimate is not None
        # Known before anything is trained, so that the stages are numbered and their times estimated as they will be.
        try:
            other = random_of_size(subject, config.train, data.info, config.seed)
        except InputError as error:
            session.say(f"no comparison: {error}")
        stages.set_baseline(session.estimate, subject, other, config.train, data.info)
    result = _tested("train", subject, config, data, session, keep)
    if other is not None:
        tested = _tested("baseline", other, config, data, session)
        seconds = round(session.seconds["baseline"], 3)
        result["baseline"] = tested | {"seconds": seconds, "architecture": other.to_json()}
    return result


def _tested(
    stage: str,
    subject: Subject,
    config: Config,
    data: Data,
    session: Session,
    keep: Callable[[nn.Module], None] = lambda network: None,
) -> dict[str, Any]:
    """Accuracy and size of the network that a stage trains, or did in an earlier execution; `keep` stores it."""
    assert config.train is not None and data.test is not None
    if stage not in session.completed:
        network = train_network(
            fresh(subject, config, data.info),
            config.train,
            data.train,
            data.info,
            seed=config.seed,
            session=session,
            stage=stage,
            title=LABELS[stage],
            device=config.device,
        )
        keep(network)
        image = (data.info.channels, data.info.image_size, data.info.image_size)
        accuracy = measure_accuracy(network, data.test, data.info, config.device)
        session.complete({"correct": accuracy.correct, "params": params(network), "macs": macs(network, image)})
    done = session.completed[stage]
    accuracy = Accuracy(done["correct"], len(data.test))
    return {
        "test_accuracy": accuracy.value,
        "test_images": accuracy.images,
        "test_interval": list(accuracy.interval),
        "params": done["params"],
        "macs": done["macs"],
    }


def fresh(subject: Subject, config: Config, info: DataInfo) -> nn.Module:
    """The network that a run trains, with the weights that its seed gives."""
    if isinstance(subject, HandMade):
        return build_handmade(subject.name, len(info.classes), info.channels, info.image_size, config.seed)
    assert isinstance(config.train, TrainSettings)
    return built(subject, config.train, info, config.seed)


def derive_again(path: str | Path, options: list[str]) -> Architecture:
    """Derive an architecture from the architecture parameters of a search, finished or not.

    Args:
        path: The run folder.
        options: NAME=VALUE of the method's options over those of the run.

    Raises:
        InputError: No search in this folder, or an option that does not fit.
    """
    path = Path(path)
    if not (path / "config.toml").is_file():
        raise InputError(f"{path} is not a run folder, since it has no config.toml; give the folder of a search")
    values = read_toml(path / "config.toml")
    config = parse(values)
    if config.search is None:
        raise InputError(
            f"{path} is a run of `dnas {config.command}`, which searches nothing; give the folder of a search"
        )
    merged = dict(values)
    add_options(merged, options, ["options"])
    method = create(config.method, config.mapping, merged.get("options", {}), get_space(config.space))
    if not isinstance(method, SupernetMethod):
        raise InputError(f"{path} is a search by {method.name}, which chose among trials; nothing can be derived again")
    mapping = method.mapping(config.search.layers, config.seed)
    epochs = config.search.epochs
    if (path / PARAMETERS_FILE).is_file():
        tensors = read_tensors(path / PARAMETERS_FILE)
        epoch = epochs
    else:
        checkpoint, _ = newest(path / "checkpoints")
        if checkpoint is None or checkpoint.state["stage"] != "search":
            raise InputError(f"{path} has no checkpoint of its search yet; wait for one, or `dnas resume {path}`")
        tensors = checkpoint.part("mapping")
        epoch = max(1, checkpoint.state["step"] // config.search.steps_per_epoch)
    try:
        mapping.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"the options do not fit the architecture parameters of {path}: {first_line(error)}") from None
    warmup = config.search.warmup_epochs if isinstance(config.search, GradientSettings) else 0
    architecture = method.derive(mapping, Progress(min(epoch, epochs) - 1, epochs, warmup))
    if architecture is None:
        raise InputError(f"{path}: {method.name} chose among candidates, so nothing can be derived again")
    return architecture


# --- what a run leaves ----------------------------------------------------------------------------------


def summary(config: Config, subject: Subject, info: DataInfo, path: Path) -> dict[str, Any]:
    """The part of result.json that is known before training."""
    if isinstance(subject, Architecture):
        settings = config.train or config.search
        assert isinstance(settings, TrainSettings | SearchSettings)
        shape: dict[str, Any] = {"layers": len(subject), "channels": settings.channels}
    else:
        shape = {"architecture": subject.name}
    return {
        "run": str(path),
        "command": config.command,
        "preset": config.preset,
        "method": config.method,
        "mapping": config.mapping,
        "seed": config.seed,
        "data": info.source,
        "classes": len(info.classes),
        **shape,
    }


def picture(architecture: Architecture, config: Config) -> str:
    """The SVG of an architecture, titled by its run."""
    if config.method:
        title = f"{config.method} · {config.mapping} · {config.data.source}"
    else:
        title = f"{architecture.origin.get('published', 'architecture')} · {config.data.source}"
    return draw.svg(architecture, title=title, subtitle=f"{len(architecture)} layers, seed {config.seed}")


@contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Running out of memory as a RunError that names what to turn down."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_short(error):
            raise
        raise RunError(
            f"{shortage(error, device)}, after a peak of {amount(peak_memory(device))}; start anew with a smaller "
            "--batch-size, --channels or --layers, or free memory and resume"
        ) from error


def peak_memory(device: str) -> int:
    """The most memory that this process has held, in bytes; on a GPU, the most that torch has allocated there."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_machine(config: Config) -> None:
    """Raises InputError where the device, the kernels or the networks that are asked for are not to be had."""
    check_device(config.device)
    choose_backend(config)
    if config.handmade:
        torchvision_models()


def check_execution(execution: Execution) -> None:
    """Raises InputError where what an execution needs is not there."""
    if execution.tensorboard:
        require_tensorboard()


def check_device(device: str) -> None:
    """Raises InputError where the device is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")


def choose_backend(config: Config) -> None:
    """Raises InputError where native kernels are asked for and cannot run."""
    if config.backend == "native" and config.device != "cpu":
        raise InputError(f"--backend native is for the CPU, not --device {config.device}; use --backend auto or torch")
    native.choose(config.backend)
