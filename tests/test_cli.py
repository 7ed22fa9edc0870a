"""Errors are one line; exit codes say what happened."""

import signal

import pytest

from conftest import ROOT
from longtail import signals
from longtail.cli import ArgumentParser, exit_code, positive_int, seed_number
from longtail.signals import Stopped, raise_if_stopped


def test_exit_codes(capsys):
    def fail(error):
        raise error

    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: fail(ValueError("two\nlines"))) == 2
    assert exit_code(lambda: fail(FileNotFoundError(2, "No such file", "x"))) == 2
    assert capsys.readouterr().err.count("\n") == 2
    signals._received = 0
    with pytest.raises(RuntimeError, match="a defect of ours"):
        exit_code(lambda: fail(RuntimeError("a defect of ours")))
    assert exit_code(lambda: fail(KeyboardInterrupt())) == 130
    with pytest.raises(Stopped):
        signals._received = signal.SIGTERM
        try:
            raise_if_stopped()
        finally:
            signals._received = 0


def test_parser_errors_are_one_line(capsys):
    parser = ArgumentParser("what")
    parser.add_argument("--seed", type=seed_number)
    parser.add_argument("--epochs", type=positive_int)
    for flags, match in (
        (["--seed", "-1"], "from 0 to 4294967295, not '-1'"),
        (["--epochs", "0"], "at least 1, not '0'"),
        (["--seed", str(2**32)], "4294967296"),
        (["--see", "1"], "--see"),
        (["--epochs", "1.5"], "'1.5'"),
    ):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(flags)
        error = capsys.readouterr().err
        assert end.value.code == 2
        assert match in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "processes, action, code, left",
    [
        (1, "print('done', end='')", 0, "done, torn down"),
        (2, "print('done', end='')", 0, "done"),
        (2, "int('x')", 2, ""),
    ],
)
def test_a_process_of_several_ends_without_taking_python_down(processes, action, code, left, started):
    """Its threads may still need Python: three processes that trained one batch aborted in 2 of 6 jobs."""
    run = started(
        "-c",
        f"import atexit, sys; from longtail.cli import exit_code; "
        f"atexit.register(print, ', torn down', end=''); sys.exit(exit_code(lambda: {action}))",
        cwd=ROOT,
        WORLD_SIZE=str(processes),
    )
    assert (run.returncode, run.stdout) == (code, left), run.stderr
