"""A command on an idle machine and beside programs that want its processors, by how long OpenMP's threads spin.

    python benchmarks/busy.py                     # a short `dnas run` on digits, two threads, idle and beside 4 others
    python benchmarks/busy.py --spins 0 --spins 1000 --spins 5000 --spins 20000
    python benchmarks/busy.py --beside 0 --beside 1 --beside 2 --command 'dnas run --out {out}/run'

The command runs in fresh processes: with what OpenMP does by default (libgomp looks 300,000 times before a waiting
thread sleeps, libomp 200 ms), and with each of `--spins`; by default that of `dnas`. These take turns, and every other
round runs backward. The programs beside it are processes that count, each of which wants a processor. CPU seconds are
those of the command, so they show what it takes from the others.
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Annotated, Any

import measure
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from dnas.runtime.waiting import BOUNDED, SPINS, VARIABLES

DEFAULT = 300_000  # looks of libgomp, where nobody says anything
# Of libomp in milliseconds: by default, and for fewer looks than libgomp's default.
DEFAULT_BLOCKTIME = "200"
# Short, but with everything that a run has: a search, two trainings, their tests, drawings.
COMMAND = (
    f"{shlex.quote(sys.executable)} -m dnas run --quiet --data digits --out {{out}}/run --search-epochs 2 "
    "--train-epochs 4 --option search.images=512"
)
SPINNING = "while True: pass"

app = App(help=__doc__)


def waiting(spins: int) -> dict[str, str]:
    """The environment variables for so many looks of libgomp, given as a user would; of libomp the closest."""
    blocktime = DEFAULT_BLOCKTIME if spins >= DEFAULT else BOUNDED["KMP_BLOCKTIME"] if spins else "0"
    return {"GOMP_SPINCOUNT": str(spins), "KMP_BLOCKTIME": blocktime}


def environment(variables: Mapping[str, str], threads: int) -> dict[str, str]:
    """This process's environment with these variables, and no others that say how threads wait."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return kept | {"OMP_NUM_THREADS": str(threads)} | dict(variables)


@contextmanager
def spinning(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Within the block so many processes use all the time they get."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-c", SPINNING]))
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def run_command(command: Sequence[str], variables: Mapping[str, str]) -> float:
    """Run a command to its end, each {out} in it a new folder. Returns its CPU seconds; exits where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        given = [part.replace("{out}", folder) for part in command]
        done = subprocess.run(given, env=dict(variables), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


Seconds = dict[tuple[int, int], list[float]]  # by (looks, programs beside)


def samples(
    command: Sequence[str], spins: Sequence[int], beside: Sequence[int], rounds: int, threads: int
) -> tuple[Seconds, Seconds]:
    """Seconds, and CPU seconds, of every run."""
    wall: Seconds = {(looks, count): [] for count in beside for looks in spins}
    cpu: Seconds = {key: [] for key in wall}

    def step(key: tuple[int, int]) -> None:
        cpu[key].append(run_command(command, environment(waiting(key[0]), threads)))

    run_command(command, environment(waiting(SPINS), threads))  # compiles the kernels, reads the files
    for number in range(rounds):
        turn = -1 if number % 2 else 1
        for count in beside[::turn]:
            steps = {str(looks): partial(step, (looks, count)) for looks in spins[::turn]}
            with spinning(count):
                taken = measure.interleaved(steps, rounds=1, warmup=0)
            for looks, seconds in taken.items():
                wall[int(looks), count] += seconds
    return wall, cpu


def rows_of(wall: Seconds, cpu: Seconds, first: int) -> list[dict[str, Any]]:
    """The figures of each pair of looks and programs beside, with ratios to the default and to `first` beside."""
    return [
        {
            "spins": looks,
            "beside": count,
            "seconds": measure.spread(seconds),
            "samples": seconds,
            "cpu_samples": cpu[looks, count],
            "to_default": measure.paired_ratio(seconds, wall[DEFAULT, count]),
            "cpu_to_default": measure.paired_ratio(cpu[looks, count], cpu[DEFAULT, count]),
            f"to_beside_{first}": measure.paired_ratio(seconds, wall[looks, first]),
        }
        for (looks, count), seconds in wall.items()
    ]


def show(rows: Sequence[Mapping[str, Any]], first: int) -> None:
    """One row for each number of looks and of programs beside."""
    table = Table(title="Seconds of the command", title_justify="left")
    for head in ("beside", "looks", "min", "median", "max", "CPU s", "/ default", "CPU / default", f"/ beside {first}"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row["beside"]),
            f"{row['spins']:,}",
            *(f"{row['seconds'][key]:.1f}" for key in ("min", "median", "max")),
            f"{median(row['cpu_samples']):.1f}",
            *(f"{row[key]:.2f}" for key in ("to_default", "cpu_to_default", f"to_beside_{first}")),
        )
    Console(width=100).print(table)


@app.default
def main(
    *,
    command: str = COMMAND,
    spins: Annotated[list[int] | None, Parameter(help="looks of libgomp; repeatable; that of dnas")] = None,
    beside: Annotated[list[int] | None, Parameter(help="how many programs run beside; repeatable; 0 and 4")] = None,
    threads: int = 2,
    rounds: int = 3,
    json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Measure the command with each of them, and with OpenMP's default.

    Args:
        command: What is run, each {out} in it a new folder.
        threads: Of the command, by OMP_NUM_THREADS.
        rounds: How often each is run, after one run that does not count.
        json: Print everything as one JSON object in the last line.
    """
    looks = list(dict.fromkeys([DEFAULT, *(spins or [SPINS])]))
    counts = list(dict.fromkeys(beside or [0, 4]))
    facts = measure.machine()
    measure.show_facts(facts)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The load is {load:.1f}: other programs run already, so nothing here is idle.")
    wall, cpu = samples(shlex.split(command), looks, counts, rounds, threads)
    rows = rows_of(wall, cpu, counts[0])
    show(rows, counts[0])
    measure.finish({"machine": facts, "load": load, "command": command, "threads": threads, "rows": rows}, json)


if __name__ == "__main__":
    app()
