"""F18. A process that decodes pictures is killed: another takes its place, and the run ends in the same bits. Where they die
again and again, the run ends in one line, exit 1, and can be resumed to the same bits. None outlives its run, even where
that is killed with SIGKILL."""

import os
import signal
from functools import partial

import psutil
import pytest
from faults.harness import TINY, Command, at_step, contents, invoke, newest_number, run_command


def decoders(process=None):
    """The processes that decode for one."""
    children = (process or psutil.Process()).children(recursive=True)
    return [child for child in children if "popen_loky_posix" in " ".join(child.cmdline())]


def kill_decoders(count):
    killed = decoders()[:count]
    assert killed
    for process in killed:
        process.kill()


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def decoders_die_from_now_on():
    from dnas.data import streaming

    streaming.decode_files = die


def arguments(images, folder, *more):
    return (
        "run",
        "--data",
        images,
        "--data-memory",
        "stream",
        "--data-workers",
        2,
        *TINY,
        *more,
        "--out",
        folder / "run",
    )


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("stage", "step"), [("search", 1), ("train", 2)])
def test_killed_ones_are_replaced(tmp_path, images, undisturbed, stage, step, count):
    outcome = run_command(
        tmp_path, *arguments(images, tmp_path), fault=partial(at_step, stage, step, partial(kill_decoders, count))
    )
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    assert contents(tmp_path / "run") == undisturbed


def test_ones_that_die_again_and_again_end_the_run_in_one_line(tmp_path, images, undisturbed):
    outcome = run_command(
        tmp_path, *arguments(images, tmp_path, "--quiet"), fault=partial(at_step, "train", 1, decoders_die_from_now_on)
    )
    assert outcome.code == 1 and len(outcome.lines) == 1, outcome.err
    assert "killed or out of memory" in outcome.err and "resume" in outcome.err
    assert invoke("resume", tmp_path / "run").code == 0
    assert contents(tmp_path / "run") == undisturbed


def test_none_outlives_a_run_that_is_killed(tmp_path, images):
    with Command(tmp_path, *arguments(images, tmp_path, "-o", "search.epochs=500")) as command:
        command.until(lambda: newest_number(tmp_path / "run") > 0)
        processes = decoders(psutil.Process(command.pid))
        assert processes
        command.process.kill()
        for process in processes:
            process.wait(60)


def test_a_changed_image_is_not_resumed_with(tmp_path, images):
    """As F12, where nothing but size and time of change is looked at."""
    from shutil import copytree

    from faults.harness import send_at

    copytree(images, tmp_path / "images")
    command = arguments(tmp_path / "images", tmp_path)
    assert run_command(tmp_path, *command, fault=send_at("train", 2, signal.SIGTERM)).code == 143
    file = tmp_path / "images" / "class 1" / "3.png"
    status = file.stat()
    pixels = bytearray(file.read_bytes())
    pixels[-20] ^= 1
    file.write_bytes(pixels)
    assert file.stat().st_size == status.st_size
    outcome = invoke("resume", tmp_path / "run", "--quiet")
    assert outcome.code == 2 and len(outcome.lines) == 1
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    file.write_bytes((images / "class 1" / "3.png").read_bytes())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    outcome = invoke("resume", tmp_path / "run", "--quiet")
    assert outcome.code == 2 and len(outcome.lines) == 1 and "have changed since it began" in outcome.err
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert invoke("resume", tmp_path / "run", "--quiet").code == 0
