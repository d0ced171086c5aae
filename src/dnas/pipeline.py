"""The pipeline: search, derive, train, test, draw, in one run folder; started, or resumed to the same bits.

`start` checks everything that can be wrong with the input before it makes the run folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dnas import draw, ranks
from dnas.architecture import Architecture, at_depth
from dnas.checkpoint import newest
from dnas.config import Config, environment, parse, resolve
from dnas.data import DataInfo, Memory, Split, fingerprint, load_test, load_train
from dnas.errors import InputError, RunError
from dnas.execution import DEFAULT, Execution
from dnas.flips import resolve_flips
from dnas.handmade import PACKAGE, HandMade, build_handmade, get_handmade, torchvision_models
from dnas.kernels import native
from dnas.methods import Method, Progress, SupernetMethod, create
from dnas.network import build, macs, params
from dnas.options import add_options
from dnas.plan import plan, size
from dnas.progress import Reporter
from dnas.runfolder import RunFolder, fresh_path, read_toml, refuse_used
from dnas.scalars import require_tensorboard
from dnas.searcher import search_architecture
from dnas.session import Session
from dnas.settings import GradientSettings, SearchSettings, TrainSettings
from dnas.space import get_space
from dnas.trainer import Accuracy, built, measure_accuracy, planned, random_of_size, to_device, train_network

MODEL_FORMAT = "dnas-model/1"
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
    source, data_dir, workers = config.data.source, config.data.data_dir or None, config.data.workers
    # What is downloaded or listed for the first time is so by one process of a machine.
    with ranks.first_on_machine():
        train, info = _training_images(config, reporter)
        test = None
        if config.command != "search":
            # One kind for both, which is then in config.toml, so that a resumed run decides nothing anew.
            test = load_test(source, info, data_dir=data_dir, memory=train.memory, workers=workers, reporter=reporter)
    prints = [fingerprint(split) for split in (train, test) if split is not None]
    return Data(train, info, test, "-".join(p[:32] for p in prints))


def _training_images(config: Config, reporter: Reporter | None) -> tuple[Split, DataInfo]:
    data = config.data
    return load_train(
        data.source,
        data_dir=data.data_dir or None,
        image_size=data.image_size or None,
        memory=data.memory,
        workers=data.workers,
        reporter=reporter,
    )


def checked_draft(overrides: Mapping[str, Any]) -> Config:
    """What can be known before any image is: raises InputError for what cannot work, and chooses the backend."""
    draft = parse({**overrides, "search": None, "train": None})
    create(draft.method, draft.mapping or None, draft.options, get_space(draft.space))
    check_machine(draft)
    return draft


def check_runs(runs: Sequence[Mapping[str, Any]], *, here: bool, reporter: Reporter | None = None) -> DataInfo:
    """Check the settings of runs with the same images, as `start` would. Returns what is known of the images.

    Args:
        runs: Overrides, as of `start`.
        here: They are made on this machine, so it must have what they need.

    Raises:
        InputError: One of them cannot begin.
    """
    drafts = [checked_draft(run) if here else parse({**run, "search": None, "train": None}) for run in runs]
    train, info = _training_images(drafts[0], reporter)
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
    draft = checked_draft(overrides)
    for text in (draft.data.source, draft.data.data_dir, str(out or "")):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{text!r} is not UTF-8, so config.toml cannot hold it; rename the folder") from None
    with ranks.joined(draft.device):
        return _begin(draft, overrides, out, architecture, reporter if ranks.leads() else None, execution)


def _begin(
    draft: Config,
    overrides: Mapping[str, Any],
    out: str | Path | None,
    architecture: Architecture | None,
    reporter: Reporter | None,
    execution: Execution,
) -> dict[str, Any]:
    if out is not None and ranks.leads():
        refuse_used(Path(out))
    data = load_data(draft, reporter)
    config, method = resolve(overrides, data.info, len(data.train), data.fingerprint, data.train.memory)
    config, flips = resolve_flips(config, data.train, data.info)
    if architecture is not None and isinstance(config.train, TrainSettings):
        architecture = at_depth(architecture, config.train.layers)
        planned(architecture, config.train, data.info)
    name = config.handmade or (method.name if architecture is None else "train")
    stem = f"{name}-{Path(config.data.source).name or 'data'}-seed{config.seed}"
    path = ranks.from_first(fresh_path(Path("runs"), stem) if out is None else Path(out))
    with RunFolder.create(path) if ranks.leads() else RunFolder(path, writes=False) as folder:
        if architecture is not None:
            folder.write_text("architecture.json", architecture.dumps())
        # Last: a folder is a run folder from the moment that it has a config.toml.
        folder.write_config(config.to_toml())
        ranks.wait()
        session = Session(folder, config.to_toml(), reporter, execution)
        session.say(f"{path}: {config.command}, preset {config.preset}, seed {config.seed}")
        if flips:
            session.say(flips)
        if config.device == "cpu" and (advice := native.advice()):
            session.say(advice)
        return _carry_through(config, method, data, folder, session)


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
        config = parse(folder.read_config())
        if (folder.path / "result.json").exists():
            result: dict[str, Any] = json.loads((folder.path / "result.json").read_text("utf-8"))
            return result
        check_execution(execution)
        check_machine(config)
        # The number of threads decides the order of sums, so a resumed run takes the first one's.
        torch.set_num_threads(int(config.environment.get("threads", torch.get_num_threads())))
        data = load_data(config, reporter)
        if data.fingerprint != config.data.fingerprint:
            raise InputError(
                f"{path} cannot be resumed: the images of {config.data.source} have changed since it began; "
                "restore them or start a new run"
            )
        # As the file has it: a newer dnas may have settings that it did not know.
        session = Session(folder, folder.read_config(), reporter, execution)
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
        session.resume()
        ranks.wait()
        method = None
        if config.method:
            method = create(config.method, config.mapping or None, config.options, get_space(config.space))
        return _carry_through(config, method, data, folder, session)


def _carry_through(
    config: Config, method: Method | None, data: Data, folder: RunFolder, session: Session
) -> dict[str, Any]:
    if config.deterministic:
        torch.use_deterministic_algorithms(True)
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
        folder.write_bytes("model.safetensors", model_bytes(network, subject, config, data.info))
        if isinstance(subject, Architecture) and not (folder.path / "architecture.svg").exists():
            folder.write_text("architecture.svg", picture(subject, config))

    result = _tested("train", subject, config, data, session, keep)
    if config.baseline and isinstance(subject, Architecture):
        assert isinstance(config.train, TrainSettings)
        try:
            other = random_of_size(subject, config.train, data.info, config.seed)
        except InputError as error:
            session.say(f"no comparison: {error}")
            return result
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
            title="train" if stage == "train" else "train a random one",
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
        raise InputError(
            f"the options do not fit the architecture parameters of {path}: {_first_line(error)}"
        ) from None
    warmup = config.search.warmup_epochs if isinstance(config.search, GradientSettings) else 0
    architecture = method.derive(mapping, Progress(min(epoch, epochs) - 1, epochs, warmup))
    if architecture is None:
        raise InputError(f"{path}: {method.name} chose among candidates, so nothing can be derived again")
    return architecture


def evaluate(
    path: str | Path,
    source: str | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    memory: Memory = "auto",
    workers: int = 0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Test the trained network of a run folder on its own test split, or on that of another data set.

    Raises InputError when there is no network, or when the classes or channels do not fit.
    """
    network, info = load_model(path)
    if image_size is not None:
        info = replace(info, image_size=image_size)
    if source is not None:
        info = replace(info, source=source)
    elif data_dir is None and (Path(path) / "config.toml").is_file():
        data_dir = read_toml(Path(path) / "config.toml").get("data", {}).get("data_dir") or None
    check_device(device)
    split = load_test(info.source, info, data_dir=data_dir, memory=memory, workers=workers, reporter=reporter)
    with closing(split):
        accuracy = measure_accuracy(to_device(network, device), split, info, device)
    return {
        "run": str(path),
        "data": info.source,
        "test_accuracy": accuracy.value,
        "test_images": accuracy.images,
        "test_interval": list(accuracy.interval),
    }


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


def model_bytes(network: nn.Module, subject: Subject, config: Config, info: DataInfo) -> bytes:
    """model.safetensors: weights without the auxiliary head; its header holds all that rebuilds the network."""
    if isinstance(subject, Architecture):
        assert isinstance(config.train, TrainSettings)
        shape: dict[str, Any] = {
            "architecture": subject.to_json(),
            "channels": config.train.channels,
            "stem": config.train.stem,
        }
    else:
        shape = {"handmade": subject.name}
    weights = {
        k: v.detach().cpu().contiguous() for k, v in network.state_dict().items() if not k.startswith("auxiliary.")
    }
    facts = {"format": MODEL_FORMAT, **shape, "data": asdict(info)}
    # One entry: safetensors writes several in an order that differs from run to run.
    return safetensors.torch.save(weights, {"dnas": json.dumps(facts)})


def load_model(run: str | Path) -> tuple[nn.Module, DataInfo]:
    """The trained network of a run folder, in evaluation mode, and what it expects of images.

    Reads model.safetensors alone. Raises InputError when there is none or it is damaged.
    """
    path = Path(run) / "model.safetensors" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise InputError(f"{path} does not exist; train first with `dnas train` or `dnas run`")
    weights = read_tensors(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("dnas", "{}"))
        if facts.get("format") != MODEL_FORMAT:
            raise InputError(f"{path} is not a model of dnas (its format is {facts.get('format')!r})")
        info = info_from_json(facts["data"])
        classes = len(info.classes)
        if "handmade" in facts:
            network = build_handmade(facts["handmade"], classes, info.channels, info.image_size, seed=0)
        else:
            architecture = Architecture.from_json(facts["architecture"])
            _check_size(path, architecture, facts, info, weights)
            network = build(architecture, facts["channels"], classes, inputs=info.channels, stem=facts["stem"])
        network.load_state_dict(weights)
    except Exception as error:  # what a forged header leads to has many types
        if isinstance(error, InputError) and str(path) in str(error):
            raise
        raise InputError(f"{path} cannot be loaded: {_first_line(error)}") from None
    return to_device(network, "cpu").eval(), info


def _check_size(
    path: Path, architecture: Architecture, facts: Mapping[str, Any], info: DataInfo, weights: Mapping[str, Tensor]
) -> None:
    """Raises InputError, before memory is taken, for a network that its file cannot hold."""
    shape = {"channels": facts["channels"], "classes": len(info.classes), "inputs": info.channels}
    wanted = size(plan(architecture, **shape, stem=facts["stem"]), info.image_size).params
    held = sum(tensor.numel() for tensor in weights.values())
    if wanted > held:
        raise InputError(f"{path} cannot be loaded: its network has {wanted} parameters, and it holds {held} numbers")


def info_from_json(facts: Mapping[str, Any]) -> DataInfo:
    """What `dataclasses.asdict` made of a DataInfo, after a detour through JSON."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return DataInfo(**fields)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises InputError naming it when it is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} cannot be loaded: {_first_line(error)}") from None


@contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Running out of memory as a RunError that names what to turn down."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if isinstance(error, RunError) or not short:
            raise
        raise RunError(
            f"out of memory, after a peak of {peak_memory(device) / 2**30:.1f} GiB: start anew with a smaller "
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


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
