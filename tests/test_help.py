"""What --help says is so: each default once and the one in force, no option that is refused; and command lines in
the pages are taken by the command line."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from faults.harness import invoke
from rich.console import Console

from dnas import methods, options
from dnas.cli import comparing, entry
from dnas.cli.app import app
from dnas.data.splits import DataInfo
from dnas.methods.registry import create
from dnas.options import BothOptions, ClusterOptions, DataOptions, ExecutionOptions, RunOptions, SearchOptions
from dnas.pipeline import config, overrides
from dnas.pipeline.config import FINALISTS, Config
from dnas.pipeline.presets import QUICK_BATCH, QUICK_LAYERS, preset_settings
from dnas.pipeline.spaces import PLACES
from dnas.runtime.execution import DEFAULT
from dnas.settings import AUTO_RESIZE, DataSettings, LimitSettings, TrainSettings, WidthTrainSettings
from dnas.space.registry import get_space, spaces_of
from dnas.study.cluster import RaySettings
from dnas.study.design import StudySettings
from dnas.study.ranking import RankingSettings

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "search", "derive", "train", "evaluate", "resume", "compare", "rank", "data", "show", "report", "methods", "doctor")  # fmt: skip


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """So that no line of the help is folded. The app keeps its first console, so COLUMNS alone would come too late."""
    monkeypatch.setattr(app, "console", Console(width=400))


def listed(command: str) -> dict[str, list[str]]:
    """The options that a command's help lists, with the defaults that it prints for each."""
    outcome = invoke(command, "--help")
    assert outcome.code == 0, outcome.err
    found = {}
    for line in outcome.out.splitlines():
        if match := re.match(r"│ (--[\w-]+)", line):
            found[match[1]] = re.findall(r"\[default: ([^\]]*)\]", line)
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_default_is_printed_once_and_says_something(command):
    """compare printed `[default: none] [default: ""]`, and every flag `[default: False]`."""
    for option, defaults in listed(command).items():
        assert len(defaults) <= 1, (option, defaults)
        assert not {*defaults} & {"", '""', "0", "False", "None"} or (option, defaults) == ("--seed", ["0"]), option


INFO = DataInfo("digits", (), 1, 8, (), (), flip=False)
QUICK = preset_settings("quick", create("dnas", None, {}, get_space("darts")), INFO, 1000)
# What is in force without an option, as the code has it; a text tells what an automatic value becomes.
IN_FORCE: dict[str, Any] = {
    "--data": DataSettings().source,
    "--data-memory": DataSettings().memory,
    "--resize": AUTO_RESIZE,
    "--class-weights": TrainSettings().class_weights,
    "--method": Config().method,
    "--space": "resnet for a run with finals in which nothing about the search is chosen, otherwise " + Config().space,
    "--seed": Config().seed,
    "--preset": Config().preset,
    "--backend": Config().backend,
    "--device": "auto",
    "--flip": "auto",
    "--checkpoint-every": DEFAULT.checkpoint_seconds,
    "--width": WidthTrainSettings().width,
    "--ray-retries": RaySettings("auto").retries,
    "--with": "none",
    "--config": "none",
    "--ram-precision": LimitSettings().precision,
    "--from": "random weights, drawn by the seed",
    "--layers": f"from the preset, {QUICK_LAYERS} for quick; for training only, the depth of the architecture",
    "--channels": f"from the preset; for quick, {QUICK['search']['channels']} in the search and {QUICK['train']['channels']} in the training",
    "--batch-size": f"from the preset, {QUICK_BATCH} for quick",
    "--search-channels": "--channels",
    "--train-channels": "--channels",
    "--search-epochs": "--epochs",
    "--train-epochs": "--epochs",
    "--train-layers": "--layers",
    "--finals": f"{FINALISTS} with --budget, and in the quick preset unless epochs or images are given; "
    f"with --space auto {PLACES} per space",
}
OF_A_COMMAND: dict[tuple[str, str], Any] = {
    ("compare", "--seeds"): StudySettings().seeds,
    ("compare", "--training-seeds"): StudySettings().training_seeds,
    ("compare", "--out"): "study",
    ("rank", "--out"): "ranking",
    ("rank", "--architectures"): RankingSettings().count,
    ("rank", "--methods"): "dnas",
    ("evaluate", "--data"): "test images of the run",
    ("evaluate", "--image-size"): "as in the run",
    ("doctor", "--out"): "runs",
    ("show", "--width"): "that of the run, else 1",
    ("show", "--channels"): "that of the run, else its own or 36",
}
IN_WORDS = re.compile(r"no limit|never|this machine|as many as|determined from the data|a new folder in runs/|one a thread|one per CPU thread|\$DNAS|from the preset|of the preset|that of the method|"
                      r"the method's|each method's own|default of each method|the machine's|those of the machine|report.html in PATH|the run's|of the run|the lowest|filename|category|the folder of the list|drawn by the seed|^none$")  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_default_is_the_one_in_force(command):
    for option, defaults in listed(command).items():
        for text in defaults:
            wanted = OF_A_COMMAND.get((command, option), IN_FORCE.get(option))
            if (command, option) == ("train", "--data"):
                continue  # of what is trained
            if wanted is not None:
                assert text == (f"{wanted:g}" if isinstance(wanted, float) else str(wanted)), (option, text)
            elif command == "show":
                assert f"{option} {text}".split()[0] in ("--channels", "--classes", "--image-size", "--image-channels", "--stem")  # fmt: skip
            else:
                assert IN_WORDS.search(text), (option, text)


def test_the_defaults_of_show_are_those_of_a_network(tmp_path):
    shown = {option: defaults[0].split()[-1] for option, defaults in listed("show").items() if defaults}
    width = shown.pop("--width")
    assert invoke("show", "resnet8", "--json").json == invoke("show", "resnet8", "--width", width, "--json").json
    given = [word for option in shown for word in (option, shown[option])]
    plain, spelled = (invoke("show", "DARTS_V2", *more, "--json").json for more in ((), given))
    assert len(shown) == 5 and plain == spelled


@pytest.mark.parametrize(("command", "folder"), [("compare", "study"), ("rank", "ranking")])
def test_a_study_lies_where_the_help_says(command, folder, monkeypatch):
    seen = []
    carry_out = {"compare": "carry_out_study", "rank": "carry_out_ranking"}[command]
    monkeypatch.setattr(comparing, carry_out, lambda out, *_: seen.append(out))
    outcome = invoke(command, "--methods", "dnas")
    assert outcome.code == 0, outcome.err
    assert seen == [Path(folder)] and listed(command)["--out"] == [folder]


@pytest.mark.parametrize(
    ("command", "refused"), [("compare", ("--method", "--mapping", "--seed")), ("rank", ("--method", "--mapping"))]
)
def test_what_a_command_refuses_is_not_in_its_help(command, refused):
    """But who gives it is told what to give instead."""
    assert not set(refused) & set(listed(command))
    for option in refused:
        outcome = invoke(command, "--methods", "dnas", option, "3" if option == "--seed" else "dnas")
        assert outcome.code == 2 and option in outcome.err and len(outcome.lines) == 1
        assert "--methods" in outcome.err or "--mappings" in outcome.err or "--seeds" in outcome.err


def test_doctor_takes_only_what_it_uses():
    assert set(listed("doctor")) == {"--data-dir", "--out", "--latency", "--json", "--debug"}


def test_every_shared_option_has_a_help():
    for group in (DataOptions, RunOptions, SearchOptions, BothOptions, ExecutionOptions, ClusterOptions):
        lines = invoke("compare", "--help").out + invoke("run", "--help").out
        for name in options.names(group):
            (line,) = set(re.findall(rf"│ {options.flag(name)}\b[^│]*", lines)[-1:])
            assert len(line.split()) > 4, line


# --- command lines in the pages -----------------------------------------------------------------------------------

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOTS = ("…", "...")


def lines_of(page: Path) -> list[str]:
    """The command lines of dnas that a page shows: in code, and in the running text between backticks."""
    text = re.sub(r"\\\n\s*", " ", page.read_text("utf-8"))
    shown = re.findall(r"(?m)^(?:    |\$ )?\s*((?:[A-Z_]+=\S+ |srun |exec )*(?:dnas|torchrun .*? -m dnas|python -m dnas) .*)$", text)  # fmt: skip
    shown += re.findall(r"`((?:dnas|torchrun [^`]*-m dnas) [^`]*)`", text.replace("\n", " "))
    return [re.sub(r"^.*?\bdnas ", "", re.sub(r"\s+#.*$", "", line)).strip() for line in shown]


def words_of(line: str) -> list[str]:
    """As a shell would pass them on, without what stands for more."""
    line = re.split(r"\s(?:[|>&]|2>)|;|\|\|", line)[0]
    line = re.sub(r"\$\{?\w+(?::-\w+)?\}?|\"\$@\"", "x", line)
    words = shlex.split(line)
    # Three dots after an option are its value, elsewhere what else a command may have.
    words = [
        "3" if word in DOTS and last.startswith("--") else word for last, word in zip(["", *words], words, strict=False)
    ]
    return [word for word in words if word not in DOTS]


CASES = sorted({(page.name, line) for page in PAGES for line in lines_of(page) if line and line[0].islower()})


def test_command_lines_are_found():
    assert len(CASES) > 80 and ("README.md", "doctor") in CASES


@pytest.mark.parametrize(("page", "line"), CASES, ids=[f"{page}: {line}"[:90] for page, line in CASES])
def test_a_command_line_of_a_page_is_taken(page, line):
    words = words_of(line)
    if words[0] not in COMMANDS:
        pytest.skip("a sentence")
    if words[1:] == []:
        return  # in a sentence the name of a command is enough
    _, bound, _ = entry.app.parse_args(words, exit_on_error=False, print_error=False)
    if words[0] not in ("run", "search"):
        return
    # The methods, settings and options that it names are there.
    groups = [value for value in bound.arguments.values() if isinstance(value, DataOptions | RunOptions | SearchOptions | BothOptions)]  # fmt: skip
    given = overrides.given_options(*groups)
    if given.get("method") == "NAME" or given.get("config") or page in ("add-a-method.md", "write-a-method.md"):
        return  # a method or a file of the reader's own
    given.pop("out", None)
    settings = overrides.nested(words[0], given)
    chosen = config.parse({**settings, "search": settings.get("search", {}), "train": settings.get("train")})
    if chosen.method in methods.list_methods():
        methods.create(chosen.method, chosen.mapping or None, chosen.options, spaces_of(chosen.space)[0])
