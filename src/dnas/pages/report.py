"""`dnas report`: a run or a study as one self-contained HTML page.

The page is built from the files in the folder, loads nothing and contains no script. The templates escape every name
that comes from data; only SVG made by dnas is marked as safe.
"""

from __future__ import annotations

from pathlib import Path

from dnas.errors import InputError
from dnas.pages.run_page import run_page
from dnas.pages.study_page import read_summary, study_page
from dnas.runtime.names import CONFIG_FILE, PAGE_FILE
from dnas.study.names import RUNS, STUDY_FILE, SUMMARY_FILE


def report(path: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run folder or a study folder, finished or not, and return its path.

    Args:
        path: Folder of `dnas run`, `search`, `train` or `compare`.
        out: File to write; by default `report.html` in the folder.

    Raises:
        InputError: The folder is neither of the two or is damaged, the file cannot be written, or a package is missing.
    """
    path = Path(path)
    target = Path(out) if out is not None else path / PAGE_FILE
    if (path / STUDY_FILE).is_file() and ((path / RUNS).is_dir() or not (path / SUMMARY_FILE).is_file()):
        # Summarize the runs as they are now: study.json is from the last time that `dnas compare` ended, if it has.
        from dnas.study.tables import summarise

        text = study_page(summarise(path), path, target.parent)
    elif (path / SUMMARY_FILE).is_file():
        text = study_page(read_summary(path), path, target.parent)
    elif (path / CONFIG_FILE).is_file():
        text = run_page(path, target.parent)
    else:
        raise InputError(
            f"{str(path)!r} contains neither {CONFIG_FILE} nor {STUDY_FILE}; give a folder of `dnas run` or "
            "`dnas compare`"
        )
    try:
        target.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r} ({error.strerror or error}); choose another --out") from None
    return target
