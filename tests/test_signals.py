"""Stop signals end the batch loop."""

import os
import signal

import pytest

from longtail.cli import RESUME_HINT, exit_code
from longtail.distributed import start_runtime
from longtail.signals import raise_if_stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
