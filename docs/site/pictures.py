"""Makes the pictures of README and docs: the drawing of a network, and what the reports look like.

    python docs/site/pictures.py

It runs on scikit-learn's digits (about a minute) and takes the drawing from the run folder. Chromium without a window
photographs the reports of that run and of the study in docs/study. The pictures of docs/performance.md are drawn by the
benchmarks that measure what they show.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parents[1]
SEARCH = ("run", "--data", "digits", "--mapping", "decoupled", "--finals", "0", "--seed", "0")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOW = (1280, 900)


def dnas(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dnas", *words], check=True)


def photograph(browser: str, page: Path, picture: Path) -> None:
    """The top of a page."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size={},{}".format(*WINDOW))
    command = [browser, *flags, f"--screenshot={picture.resolve()}", page.resolve().as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser: none of {', '.join(BROWSERS)} is on PATH")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "digits"
        dnas(*SEARCH, "--out", str(run))
        dnas("report", str(run))
        shutil.copy(run / "architecture.svg", DOCS / "architecture.svg")
        photograph(browser, run / "report.html", DOCS / "report-run.png")
    photograph(browser, DOCS / "study" / "report.html", DOCS / "report-study.png")


if __name__ == "__main__":
    main()
