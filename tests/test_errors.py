"""What helps a user who mistyped a name."""

from __future__ import annotations

import pytest

from dnas.errors import did_you_mean


@pytest.mark.parametrize(
    ("typed", "close"),
    [("drats", "darts"), ("DARTS", "darts"), ("pc_darts", "pc-darts"), ("Darts_v2", "DARTS_V2"), ("qqqq", None)],
)
def test_the_closest_known_name_is_offered_and_none_where_none_is_close(typed: str, close: str | None) -> None:
    known = ["dnas", "darts", "pc-darts", "DARTS_V2", "vgg16-bn"]
    assert did_you_mean(typed, iter(known)) == (f"; did you mean {close!r}?" if close else "")
