"""Stop signals end the batch loop."""

import os
import queue
import signal
import threading
import time

import pytest

from longtail.cli import RESUME_HINT, exit_code
from longtail.distributed import start_runtime
from longtail.signals import Stopped, call_interruptibly, raise_if_stopped, stop_signals, wait_until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signal_ends_the_batch_loop_with_its_code(number, capsys):
    def work():
        with start_runtime():
            for batch in range(1000):
                raise_if_stopped()
                if batch == 3:
                    os.kill(os.getpid(), number)
                assert batch < 5

    assert exit_code(work, RESUME_HINT) == 128 + number
    assert f"stopped by {number.name}; --resume continues" in capsys.readouterr().err
    assert exit_code(work) == 128 + number
    assert capsys.readouterr().err.endswith(f"stopped by {number.name}\n")  # a test has no --resume


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with start_runtime():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    raise_if_stopped()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_ends_a_wait_for_data_that_never_comes(number):
    """As from a network drive that is gone. A plain queue.get() would resume its wait after the handler."""
    empty: queue.Queue = queue.Queue()

    def arrived(seconds: float) -> bool:
        try:
            return empty.get(timeout=seconds)
        except queue.Empty:
            return False

    start = time.monotonic()
    with stop_signals(), pytest.raises(Stopped):
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
        wait_until(arrived)
    assert 0.3 <= time.monotonic() - start < 2


def test_a_wait_ends_when_what_it_waits_for_is_there():
    answers = iter([0, [], "here"])
    wait_until(lambda seconds: next(answers))
    assert list(answers) == []


def test_a_closed_terminal_is_ignored_where_it_was_before():
    """nohup starts a program with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            raise_if_stopped()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_closes_twice_is_one_stop():
    """Its shell and the system both send the signal; a second SIGTERM would end the process at once."""
    with stop_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Stopped):
            raise_if_stopped()


def test_a_thread_that_is_not_the_main_one_runs_without_handlers():
    codes = []

    def work():
        with start_runtime():
            pass

    thread = threading.Thread(target=lambda: codes.append(exit_code(work)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_call_that_never_returns_ends_at_a_stop_signal():
    never = threading.Event()
    with stop_signals():
        assert call_interruptibly(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            call_interruptibly(lambda: 1 // 0)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stopped):
            call_interruptibly(never.wait)
