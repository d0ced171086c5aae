"""What a run says of its time, read back into numbers, and a clock that stands still: for tests of estimates."""

import pytest

from dnas.reporter import Silent


class Lines(Silent):
    """Keeps what a run shows."""

    def __init__(self):
        self.titles, self.lines = [], []

    def start(self, title, steps, done):
        self.titles.append(title)

    def say(self, text):
        self.lines.append(text)

    @property
    def estimates(self):
        return [line for line in self.lines if line.startswith("about ")]


class Clock:
    """The monotonic clock, which stands still."""

    def __init__(self, monkeypatch):
        self.now = 1e6
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def seconds(text):
    """The seconds of "75 s", "12 min" or "2.5 h", and by how much that was rounded at most."""
    number, unit = text.split()
    scale = {"s": 1, "min": 60, "h": 3600}[unit]
    step = {"s": 5, "min": 60, "h": 360}[unit]
    return float(number) * scale, step / 2 + 0.01


def close(text, wanted, share=0.0):
    """Whether a text says so many seconds, but for its rounding and a share of them."""
    said, rounding = seconds(text)
    return abs(said - wanted) <= rounding + share * wanted


def read(sentence):
    """{"in all" or "left": …, stage: …} of a sentence."""
    whole, _, parts = sentence.removeprefix("about ").partition(": ")
    number, unit, *kind = whole.split()
    return {" ".join(kind): f"{number} {unit}"} | dict(part.split(" ", 1) for part in parts.split(", ") if part)
