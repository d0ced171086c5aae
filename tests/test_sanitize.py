"""The job that looks for kernels leaving their memory: what it plants is there to be planted, and it says when it cannot run.

That a planted overrun is seen, the job itself makes sure of: `benchmarks/sanitize.py`, run by `.ci/run`.
"""

import sys

import pytest
import sanitize


@pytest.mark.parametrize("planted", sanitize.PLANTED, ids=lambda planted: planted.file)
def test_what_is_planted_is_there_once(planted):
    text = (sanitize.ROOT / "src" / "dnas" / "kernels" / planted.file).read_text("utf-8")
    assert text.count(planted.old) == 1 and planted.new != planted.old


@pytest.mark.parametrize("compiler", ["/nowhere/gcc", f"{sys.executable} -c pass"])
def test_without_sanitizers_nothing_is_checked_and_that_is_said(monkeypatch, capsys, compiler):
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(sanitize, "checked", None)  # whoever calls it fails
    assert sanitize.main([]) == 0
    assert capsys.readouterr().out.startswith("kernels were not checked: ")


def test_a_check_that_fails_and_a_fault_that_is_not_seen_fail_the_job(monkeypatch, capsys):
    monkeypatch.setattr(sanitize, "tools", lambda: (["gcc"], []))
    reports, own = {planted.file: planted.seen for planted in sanitize.PLANTED}, []

    def checked(package, folder, arguments):
        for planted in sanitize.PLANTED:
            file = package / "dnas" / "kernels" / planted.file
            if planted.new in file.read_text("utf-8"):
                return 1, reports[planted.file]
        return own[-1]

    monkeypatch.setattr(sanitize, "checked", checked)
    for outcome, seen, code in (((0, ""), True, 0), ((1, "AddressSanitizer"), True, 1), ((0, ""), False, 1)):
        own.append(outcome)
        reports["limits.py"] = "out of bounds" if seen else "something else"
        assert sanitize.main([]) == code
        assert ("was not seen" in capsys.readouterr().out) == (not seen)
