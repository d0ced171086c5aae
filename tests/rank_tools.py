"""One rank of a test: `python rank_tools.py SCENARIO FOLDER`, started as torchrun would start it; and what starts it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve()


def start_ranks(count, *arguments, command=None, **variables):
    """The processes of `count` ranks, with torchrun's environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {
        "TORCHELASTIC_RUN_ID": "test",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    command = command or [sys.executable, str(HERE)]
    return [
        subprocess.Popen(
            [*command, *map(str, arguments)],
            env={**os.environ, **known, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes, seconds=120):
    """(exit code, stdout, stderr) of each."""
    try:
        return [
            (process.returncode, *texts) for process in processes for texts in [process.communicate(timeout=seconds)]
        ]
    finally:
        for process in processes:
            process.kill()


def in_float64():
    """From here on images, weights and what is computed of them are float64."""
    from dnas.searching import search, watch
    from dnas.training import accuracy, batches, trainer

    torch.set_default_dtype(torch.float64)
    for module in (accuracy, batches, search, trainer, watch):
        for name in ("augment", "normalise"):
            plain = getattr(module, name, None)
            if plain is None:
                continue
            setattr(module, name, lambda *given, plain=plain: plain(*given).double())


def searched(folder, parts, method, update):
    """Tensors and metrics of a short search."""
    from dnas.data.splits import load_train
    from dnas.methods.registry import create
    from dnas.runtime.session import Session
    from dnas.searching.search import Search
    from dnas.searching.watch import epoch_metrics
    from dnas.space.darts import DARTS

    split, info = load_train("digits")
    options = {"partial_channels": 1} if method in ("dnas", "pc-darts") else {}
    known = create(method, "full", options, DARTS)
    given = {
        "layers": 3,
        "channels": 4,
        "epochs": 2,
        "images": 94,
        "batch_size": 24,
        "parts": parts,
        "watch_images": 20,
    }
    if update:
        given |= {"warmup_epochs": 1, "update": update}
    settings = known.Settings(**given).resolved(len(split), 4.0, info.image_size)
    search = Search(known, settings, split, info, 3, "cpu")
    session = Session(None, {})
    session.start("search", "search", 1)
    lines = []
    for step in range(settings.epochs * settings.steps_per_epoch):
        search.step(step)
        if (step + 1) % settings.steps_per_epoch == 0:
            lines.append(epoch_metrics(search, step))
    tensors, _ = search.capture()
    numbers = {k: v for line in lines for k, v in line.items() if isinstance(v, float)}
    return tensors | {"metrics": torch.tensor([numbers[k] for k in sorted(numbers)])}


def trained(folder, parts):
    """Tensors of a short training, and its answers."""
    from dnas.data.splits import load_train
    from dnas.runtime.session import Session
    from dnas.settings import TrainSettings
    from dnas.space.architecture import at_depth
    from dnas.space.published import load_published
    from dnas.training.accuracy import answers
    from dnas.training.build import built
    from dnas.training.trainer import train_network

    split, info = load_train("digits")
    settings = TrainSettings(
        channels=4, epochs=2, images=94, batch_size=24, auxiliary_weight=0.0, drop_path=0.3, average=0.5,
        flip="alternate", parts=parts,
    ).resolved(len(split), info.image_size)  # fmt: skip
    network = built(at_depth(load_published("DARTS_V2"), 3), settings, info, 0).double()
    train_network(network, settings, split, info, seed=3, session=Session(None, {}))
    return dict(network.state_dict()) | {"answers": answers(network, split.subset(torch.arange(300)), info)}


if __name__ == "__main__":
    from dnas.runtime import distributed

    scenario, folder, parts, *more = sys.argv[1:]
    in_float64()
    with distributed.joined("cpu"):
        found = {"search": searched, "train": trained}[scenario](Path(folder), int(parts), *more)
        torch.save(found, Path(folder) / f"{scenario}-{distributed.count()}-{distributed.rank()}.pt")
