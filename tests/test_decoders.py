"""Processes for decoding: whatever dies, every task gives what its function gives, or an error that says so."""

import os
import pickle
import signal

import psutil
import pytest

from dnas.data.decoders import DEATHS, Decoders
from dnas.errors import RunError


def square(number):
    return number * number


def pid():
    return os.getpid()


def refuse(text):
    raise RunError(text)


def dies_once(marker, number):
    """Takes its process with it, unless it has done so."""
    try:
        with marker.open("x"):
            os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        return number


def dies(note):
    with note.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=[1, 2])
def decoders(request):
    decoders = Decoders(request.param)
    yield decoders
    decoders.close()


def test_every_task_gives_what_its_function_gives(decoders):
    tasks = [decoders.begin(square, number) for number in range(20)]
    assert [decoders.finish(task) for task in reversed(tasks)] == [number**2 for number in reversed(range(20))]
    assert decoders.finish(decoders.begin(pid)) != os.getpid()


def test_an_error_is_that_of_the_function(decoders):
    failing, fine = decoders.begin(refuse, "no such picture"), decoders.begin(square, 3)
    with pytest.raises(RunError, match="^no such picture$"):
        decoders.finish(failing)
    assert decoders.finish(fine) == 9


def test_a_process_that_is_killed_in_the_middle_is_replaced(decoders, tmp_path):
    """All the tasks that were begun come to their end, the one that was hit, too."""
    tasks = [decoders.begin(square, 2), decoders.begin(dies_once, tmp_path / "died", 5), decoders.begin(square, 4)]
    assert [decoders.finish(task) for task in tasks] == [4, 5, 16]
    assert (tmp_path / "died").exists()


def test_processes_that_are_killed_while_they_wait_are_replaced(decoders):
    first = decoders.finish(decoders.begin(pid))
    for process in psutil.Process(first).parent().children():
        if process.pid == first:
            process.kill()
            process.wait()
    assert decoders.finish(decoders.begin(pid)) != first


def test_one_that_dies_again_and_again_is_an_error_of_one_line(decoders, tmp_path):
    task = decoders.begin(dies, tmp_path / "deaths")
    with pytest.raises(RunError) as caught:
        decoders.finish(task)
    assert "\n" not in str(caught.value) and "killed or out of memory" in str(caught.value)
    assert (tmp_path / "deaths").read_text() == "x" * DEATHS
    assert decoders.finish(decoders.begin(square, 6)) == 36


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_all_processes_of_a_terminal_are_for_the_owner(signum):
    decoders = Decoders(1)
    process = decoders.finish(decoders.begin(pid))
    os.kill(process, signum)
    assert decoders.finish(decoders.begin(pid)) == process
    decoders.close()


@pytest.mark.parametrize("end", ["close", "forget"])
def test_processes_end_with_their_owner(end):
    decoders = Decoders(1)
    process = psutil.Process(decoders.finish(decoders.begin(pid)))
    if end == "close":
        decoders.close()
    else:
        del decoders
    process.wait(60)


def test_what_was_begun_is_done_even_if_they_are_closed(decoders):
    tasks = [decoders.begin(square, number) for number in range(50)]
    for _ in range(5):
        decoders.close()
        assert decoders.finish(tasks.pop()) == len(tasks) ** 2
    assert [decoders.finish(task) for task in tasks] == [number**2 for number in range(len(tasks))]


def test_what_is_sent_to_a_process_has_processes_of_its_own():
    decoders = Decoders(3)
    decoders.finish(decoders.begin(pid))
    copy = pickle.loads(pickle.dumps(decoders))
    assert copy.count == 3 and copy._pool is None
    decoders.close()


def test_without_a_number_there_is_one_a_thread():
    import torch

    assert Decoders().count == torch.get_num_threads()
