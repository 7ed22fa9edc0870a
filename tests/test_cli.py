"""Errors are one line; exit codes say what happened."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from longtail import signals
from longtail.cli import ArgumentParser, exit_code, first_few, positive_int, say_error, seed_number
from longtail.metrics import report
from longtail.signals import Stopped, raise_if_stopped

PATHS = {**os.environ, "PYTHONPATH": str(ROOT)}


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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_name_that_the_terminal_lacks_ends_no_work(encoding, started):
    run = started(
        "-c",
        "import sys; from longtail.cli import exit_code; sys.exit(exit_code(lambda: print('\u732b')))",
        cwd=ROOT,
        PYTHONIOENCODING=encoding,
    )
    assert (run.returncode, run.stdout) == (0, "\\u732b\n"), run.stderr


MANY_LINES = "import sys; from longtail.cli import exit_code; sys.exit(exit_code(lambda: print('x' * 99999)))"


@pytest.mark.parametrize("reader", ["head -c 1", "true"])
def test_a_reader_that_has_enough_ends_the_script_quietly(reader):
    command = f'"{sys.executable}" -c "{MANY_LINES}" | {reader} > /dev/null; echo ${{PIPESTATUS[0]}}'
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("141\n", "")


def test_a_closed_stderr_and_stdout_stop_nothing(tmp_path):
    """Else the next file that is opened would be file 2, and get what libraries write there."""
    work = (
        "import os, sys; from longtail.cli import exit_code; "
        "sys.exit(exit_code(lambda: (print('a'), print('b', file=sys.stderr), os.write(2, b'c'), "
        "open('data', 'w').write('data'))[:0] or 0))"
    )
    run = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{work}" >&- 2>&-'], cwd=tmp_path, env=PATHS)
    assert run.returncode == 0 and (tmp_path / "data").read_text() == "data"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 99 bytes"), "99"),
        (MemoryError("Unable to allocate 1.0 TiB for an array"), "1.0 TiB"),
        (MemoryError(), "a smaller batch"),
    ],
)
def test_a_full_memory_is_one_line(error, words, capsys):
    def fail():
        raise error

    assert exit_code(fail) == 2
    message = capsys.readouterr().err
    assert "out of memory" in message and words in message and message.count("\n") == 1


def test_names_are_printed_without_commands_to_the_terminal(capsys):
    say_error("class \x1b[31mred\x07 \u732b")
    assert capsys.readouterr().err.endswith("class \\x1b[31mred\\x07 \u732b\n")
    assert first_few(["a\x1b[0m", "b"]) == "a\\x1b[0m, b"
    figures = report(torch.eye(2, dtype=torch.long), None, ["\x1b[31mred", "caf\u00e9 1"])
    assert [one.name for one in figures.classes] == ["\\x1b[31mred", "caf\u00e9 1"]
