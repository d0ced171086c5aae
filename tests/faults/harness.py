"""Runs `dnas` in this process or in ones that can be killed, on pictures of a few kilobytes.

The processes come from multiprocessing's fork server: it has imported torch once and has run nothing, so a child
starts in milliseconds and shares no thread with anybody.
"""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

TINY = ("--layers", "3", "--channels", "8", "--epochs", "2", "--batch-size", "16")
SAME = ("architecture.json", "model.safetensors", "metrics.jsonl", "architecture.svg")
EXECUTING = ("run", "search", "train", "resume", "compare", "rank")
PATIENCE = 120  # seconds after which a process that should have ended counts as hanging
# Steps of a run with TINY on `make_images`: 48 training images, of which a search has 24 for the weights.
STEPS = {"search": 2 * 2, "train": 2 * 3, "baseline": 2 * 3}


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code (negative: ended by that signal) and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


def make_images(folder: Path, classes: int = 2, each: int = 30, size: int = 8, seed: int = 0) -> Path:
    """Class folders of small grey pictures that a network learns, though not all of them in two epochs."""
    rng = np.random.default_rng(seed)
    for k in range(classes):
        place = folder / f"class {k}"
        place.mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 160, (size, size))
            pixels[k % size :: 2] += 60
            pixels[:, k % size :: 3] += 20
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{i}.png")
    return folder


def invoke(*arguments: Any) -> Outcome:
    """`dnas ARGUMENTS` in this process."""
    from dnas.cli import entry

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = entry._call([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def contents(run: Path, names: tuple[str, ...] = SAME) -> dict[str, bytes]:
    """The bytes of a run folder's files that a repeated run must repeat."""
    return {name: (run / name).read_bytes() for name in names}


def in_depth(test: Any, cases: int, *strategies: Any, **named: Any) -> Any:
    """The full form of a property: the same in so many cases, which are others at every call."""
    property_ = given(*strategies, **named)(test.hypothesis.inner_test)
    relaxed = settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    return pytest.mark.full(pytest.mark.timeout(3600)(relaxed(property_)))


# --- processes ---------------------------------------------------------------------------------------------


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    # What a run imports when it comes to it, so that a child need not.
    late = ["torch._dynamo", "scipy.stats", "PIL.PngImagePlugin", "rich.table"]
    context.set_forkserver_preload(["dnas.cli", "dnas.pipeline", *late])
    return context


class Command:
    """`dnas ARGUMENTS` in a process of its own that writes a checkpoint after every step.

    `fault` is called in it before the command, and may break what it likes.
    """

    def __init__(self, folder: Path, *arguments: Any, fault: Callable[[], None] | None = None) -> None:
        self.files = folder / "stdout.txt", folder / "stderr.txt"
        texts = [str(argument) for argument in arguments]
        self.process = _server().Process(target=_child, args=(texts, self.files, fault))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, seconds: float = PATIENCE) -> Outcome:
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the process hangs"
        return Outcome(self.process.exitcode, *(file.read_text() for file in self.files))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds while the process goes on."""
        for _ in range(PATIENCE * 200):
            if condition():
                return
            self.process.join(0.005)
            assert self.process.exitcode is None, self.files[1].read_text()
        raise AssertionError("what was waited for never came")

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


def run_command(
    folder: Path, *arguments: Any, fault: Callable[[], None] | None = None, seconds: float = PATIENCE
) -> Outcome:
    with Command(folder, *arguments, fault=fault) as command:
        return command.wait(seconds)


def _child(arguments: list[str], files: tuple[Path, Path], fault: Callable[[], None] | None) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    from dnas.cli import entry

    if arguments[0] in EXECUTING and "--checkpoint-every" not in arguments:
        arguments = [*arguments, "--checkpoint-every", "0"]
    if fault is not None:
        fault()
    entry.main(arguments)


def run_ranks(
    folder: Path, *arguments: Any, faults: Sequence[Callable[[], None] | None] = (None, None)
) -> list[Outcome]:
    """`dnas ARGUMENTS` in as many processes as there are faults, as `torchrun` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.ExitStack() as opened:
        commands = []
        for rank, fault in enumerate(faults):
            place = folder / f"rank{rank}"
            place.mkdir(exist_ok=True)
            become = partial(_become_rank, rank, len(faults), port, fault)
            commands.append(opened.enter_context(Command(place, *arguments, fault=become)))
        return [command.wait() for command in commands]


def _become_rank(rank: int, count: int, port: int, fault: Callable[[], None] | None) -> None:
    known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update(
        {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"} | {k: str(v) for k, v in known.items()}
    )
    if fault is not None:
        fault()


# --- faults: functions to give to a Command ----------------------------------------------------------------


def at_step(stage: str, step: int, action: Callable[[], None]) -> None:
    """Do something when step `step` (1-based) of a stage is done and before its checkpoint is written."""
    from dnas.runtime.session import Session

    original = Session.step_done

    def step_done(self: Session, done: int, *rest: Any) -> None:
        if (self._stage, done) == (stage, step):
            action()
        original(self, done, *rest)

    Session.step_done = step_done  # type: ignore[method-assign]


def send_at(stage: str, step: int, *signals: int) -> Callable[[], None]:
    """Signals to the process itself at a step."""
    return partial(at_step, stage, step, partial(_send, signals))


def _send(signals: tuple[int, ...]) -> None:
    for signum in signals:
        os.kill(os.getpid(), signum)


def dies_after(checkpoint: int, seconds: float) -> Callable[[], None]:
    """The kernel ends the process when it has computed for `seconds` after checkpoint number `checkpoint`.

    By a signal with its default action, which like SIGKILL runs no code of the process; unlike a kill from outside it
    comes at a moment that does not depend on what else the machine does.
    """
    return partial(_die_after, checkpoint, seconds)


def _die_after(checkpoint: int, seconds: float) -> None:
    from dnas.runtime.runfolder import RunFolder

    def arm() -> None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        if not any(signal.getitimer(signal.ITIMER_PROF)):
            signal.setitimer(signal.ITIMER_PROF, seconds)

    if checkpoint == 0:
        arm()
    original = RunFolder.save_checkpoint

    def save_checkpoint(self: RunFolder, *arguments: Any) -> None:
        original(self, *arguments)
        # Not only that very number: a kill in the middle of writing one leaves a gap.
        if newest_number(self.path) >= checkpoint:
            arm()

    RunFolder.save_checkpoint = save_checkpoint  # type: ignore[method-assign]


def newest_number(run: Path) -> int:
    """The number of the newest whole checkpoint, 0 if there is none."""
    from dnas.runtime.checkpoint import newest

    checkpoint, _ = newest(run / "checkpoints")
    return 0 if checkpoint is None else checkpoint.sequence
