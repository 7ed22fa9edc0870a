"""Stop at the next batch after SIGINT or SIGTERM. Needs no torch."""

import contextlib
import os
import signal
from collections.abc import Iterator

_received = 0  # the number of the stop signal that arrived


class Stopped(Exception):
    """A stop signal arrived; the argument is its number."""


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM only set a flag that `raise_if_stopped` reads.

    A second signal ends the process at once.
    """

    def remember(number: int, frame: object) -> None:
        global _received
        if _received:
            os._exit(128 + number)
        _received = number

    global _received
    _received = 0
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
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
