"""Stop at the next batch after SIGINT, SIGTERM or SIGHUP. Needs no torch."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

SIGHUP = getattr(signal, "SIGHUP", 0)  # Windows has none
SECONDS_BETWEEN_LOOKS = 0.5  # at the flag, while something is waited for
_received = 0  # the number of the stop signal that arrived


class Stopped(Exception):
    """A stop signal arrived; the argument is its number."""


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP only set a flag that `raise_if_stopped` reads.

    A second SIGINT or SIGTERM ends the process at once; a closed terminal sends SIGHUP more than once. SIGHUP stays
    ignored where it was, as under nohup. Outside of the main thread Python sets no handlers, so none is set there.
    """

    def remember(number: int, frame: object) -> None:
        global _received
        if _received and number != SIGHUP:
            os._exit(128 + number)
        _received = _received or number

    global _received
    _received = 0
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        if SIGHUP and signal.getsignal(SIGHUP) != signal.SIG_IGN:
            before[SIGHUP] = signal.signal(SIGHUP, remember)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def received() -> int:
    """Return the number of the stop signal that arrived, or 0."""
    return _received


def raise_if_stopped() -> None:
    """Raise Stopped if a stop signal has arrived."""
    if _received:
        raise Stopped(_received)


def wait_until(ready: Callable[[float], object]) -> None:
    """Call `ready(seconds)`, which waits at most so long, until it returns something true.

    Raise Stopped after a stop signal. What would wait without a limit goes through here, such as a loader's data:
    `wait_until(connection.poll)`, or `wait_until(lambda seconds: concurrent.futures.wait([future], seconds).done)`.
    A thread that may be stuck has to be a daemon: at its end Python waits for all others.
    """
    while True:
        raise_if_stopped()
        if ready(SECONDS_BETWEEN_LOOKS):
            return


def call_interruptibly(function: Callable[[], T]) -> T:
    """Return function(), called in a daemon thread: a stop signal ends the wait for a drive that does not answer."""
    outcome: Future[T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # whatever it is, the caller gets it
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    wait_until(lambda seconds: wait([outcome], seconds).done)
    return outcome.result()
