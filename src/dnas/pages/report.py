"""`dnas report`: a run or a study as one page of HTML that needs nothing else.

The page is read from what lies in the folder; nothing in it is fetched, and it holds no script. Every name that comes
from data is escaped by the templates; what is marked as safe is our own SVG alone.
"""

from __future__ import annotations

from pathlib import Path

from dnas.errors import InputError
from dnas.pages.run_page import run_page
from dnas.pages.study_page import read_summary, study_page
from dnas.runtime.names import CONFIG_FILE, PAGE_FILE
from dnas.study.names import RUNS, STUDY_FILE, SUMMARY_FILE


def report(path: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run folder or a study folder, finished or not. Returns where it lies.

    Args:
        path: The folder that `dnas run`, `search` or `train` wrote, or that of `dnas compare`.
        out: The file; by default `report.html` in the folder.

    Raises:
        InputError: Neither of the two, damaged, not to be written, or a package is missing.
    """
    path = Path(path)
    target = Path(out) if out is not None else path / PAGE_FILE
    if (path / STUDY_FILE).is_file() and ((path / RUNS).is_dir() or not (path / SUMMARY_FILE).is_file()):
        # As its runs are now: study.json is of when `dnas compare` ended last, if it has.
        from dnas.study.tables import summarise

        text = study_page(summarise(path), path, target.parent)
    elif (path / SUMMARY_FILE).is_file():
        text = study_page(read_summary(path), path, target.parent)
    elif (path / CONFIG_FILE).is_file():
        text = run_page(path, target.parent)
    else:
        raise InputError(
            f"{path} has neither {CONFIG_FILE} nor {STUDY_FILE}; give a folder of `dnas run` or of `dnas compare`"
        )
    try:
        target.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"cannot write {target} ({error.strerror or error}); choose another --out") from None
    return target
