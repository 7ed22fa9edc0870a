"""What every script's command line shares: the parser, types of arguments, errors in one line, exit codes.

Needs no torch.
"""

import argparse
import contextlib
import math
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from longtail.files import expand_home
from longtail.signals import Stopped, received

# gloo and NCCL raise a RuntimeError with one of these words when another process of the job is gone.
PARTNER_LOST = (
    "remote worker",
    "onnection closed by peer",
    "onnection reset by peer",
    "roken pipe",
    "remote process exited",
    "Timed out waiting",
)
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")  # in a RuntimeError of PyTorch's
BROKEN_PIPE = 128 + 13  # the exit code of a program that SIGPIPE ends; Windows has no such signal
PRECISIONS = ("auto", "fp32", "bf16")
DEVICE_HELP = "cpu, or a GPU as PyTorch calls it: cuda, cuda:1, mps, xpu"
RESUME_HINT = "; --resume continues after the last finished epoch"


class ArgumentParser(argparse.ArgumentParser):
    """Print errors in one line and exit with 2; keep the line breaks of the manual, which is a script's docstring."""

    def __init__(self, manual: str | None):
        super().__init__(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help explains)\n")


def first_few(names: Sequence[str], separator: str = ", ", most: int = 5) -> str:
    """Return the first names for a message, and how many more there are."""
    shown = separator.join(printable(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def printable(text: str) -> str:
    """Return a name for a terminal: what is no visible character, such as the escape that starts a color, as \\x1b."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def file_path(text: str) -> Path:
    """Convert an argument to a path. A shell leaves the ~ of --data_root=~/data as it is."""
    try:
        return expand_home(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive_int(text: str) -> int:
    """Convert an argument to a whole number of at least 1 and below 2**32."""
    if not text.isdecimal() or not 1 <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def seed_number(text: str) -> int:
    """Convert an argument to a whole number from 0 to 2**32 - 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, not {text!r}")
    return int(text)


def number_in(low: float, high: float, include_low: bool = True, include_high: bool = False) -> Callable[[str], float]:
    """Return a converter of arguments to numbers between `low` and `high`, each of which may be included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (low <= value <= high and (include_low or value > low) and (include_high or value < high)):
            bound = ("of at least" if include_low else "above") + f" {low:g}"
            if high < math.inf:
                bound += (" and at most" if include_high else " and below") + f" {high:g}"
            raise argparse.ArgumentTypeError(f"must be a number {bound}, not {text!r}")
        return value

    return parse


def add_device_arguments(
    parser: argparse.ArgumentParser, auto: str = "bf16 where the hardware is faster in it"
) -> None:
    """Add --n_gpus, --device and --precision to a parser, or a group of one; `auto` says what the precision 'auto'
    means."""
    parser.add_argument("--n_gpus", type=int, default=1, help="GPUs for DataParallel; default: 1")
    parser.add_argument("--device", help=f"{DEVICE_HELP}; default: the GPU if there is one")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help=f"auto: {auto}")


def add_run_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add --tensorboard, and --resume and --overwrite, which exclude each other; `folder` names the run's folder in
    the help."""
    parser.add_argument("--tensorboard", action="store_true", help=f"write the log for TensorBoard too, below {folder}")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help=f"continue the run in {folder}; from epoch 1 if there is none"
    )
    existing.add_argument("--overwrite", action="store_true", help=f"replace the run in {folder}")


def run_mode(args: argparse.Namespace) -> Literal["new", "resume", "overwrite"]:
    """Return what the flags of add_run_arguments ask for where a run is there already; "new" touches none."""
    if args.resume:
        return "resume"
    return "overwrite" if args.overwrite else "new"


def plain_arguments(args: argparse.Namespace) -> dict[str, str | int | float | None]:
    """Return the flags that a checkpoint names: all but paths."""
    return {key: value for key, value in vars(args).items() if isinstance(value, (str, int, float, type(None)))}


def say_error(message: object) -> None:
    """Print one line on stderr, in the program's name, if anybody still reads it."""
    line = printable(" ".join(str(message).split()))
    with contextlib.suppress(OSError):
        print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr, flush=True)


def open_streams() -> None:
    """Let stdout and stderr take any text, and be nothing where they are closed.

    Else a name that the terminal's encoding lacks would end finished work as an error, and the first file that is
    opened would get what libraries write to a closed stderr.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # a notebook's has none
            stream.reconfigure(errors="backslashreplace")


def reader_is_gone() -> bool:
    """Return whether nobody reads stdout any more, as after `| head`; then stop Python from saying so at its end."""
    try:
        sys.stdout.flush()
        descriptor = sys.stdout.fileno()
    except BrokenPipeError:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, as in a notebook, or one that is full
        return False
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return gone


def several_processes() -> bool:
    """Return whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def stopped_code(hint: str) -> int:
    """Say which signal stopped the run; return the exit code."""
    say_error(f"stopped by {signal.Signals(received()).name}{hint}")
    return 128 + received()


def outcome(action: Callable[[], int | None], hint: str) -> int:
    """Run `action`, print its error, and return what `exit_code` returns."""
    try:
        return action() or 0
    except BrokenPipeError as error:
        if reader_is_gone():
            return BROKEN_PIPE
        say_error(f"error: {error}")
        return 2
    except (ValueError, OSError) as error:
        say_error(f"error: {error}")
        return 2
    except MemoryError as error:
        say_error(f"error: out of memory: {str(error) or 'a smaller batch needs less'}")
        return 2
    except Stopped:
        return stopped_code(hint)
    except KeyboardInterrupt:  # outside of stop_signals
        say_error("stopped by SIGINT")
        return 128 + signal.SIGINT
    except RuntimeError as error:
        if received():  # the other processes were stopped too, and their end is not an error
            return stopped_code(hint)
        if type(error).__name__ == "OutOfMemoryError":  # torch's; this module does not import torch
            say_error(f"error: {error}")
            return 2
        if any(words in str(error) for words in CPU_OUT_OF_MEMORY):
            say_error(f"error: out of memory, a smaller batch needs less: {error}")
            return 2
        if several_processes() and any(words in str(error) for words in PARTNER_LOST):
            say_error(f"error: another process of this job ended or cannot be reached{hint}")
            return 1
        raise


def exit_code(action: Callable[[], int | None], hint: str = "") -> int:
    """Run `action`.

    Return 0 or its own code on success, 1 if another process was lost, 2 for user or file errors, 128 + n for signal
    n.

    Each error is one line on stderr; `hint` ends the lines of lost processes and signals.

    One of several processes ends here: while Python shuts down, a thread of gloo that still frees its last gradient
    would abort the process (PyTorch 2.14; pytorch/pytorch pull request 179291), and torchrun would fail a finished
    job.
    """
    open_streams()
    try:
        code = outcome(action, hint)
    except SystemExit as end:
        if not several_processes():
            raise
        code = int(end.code or 0)
    if reader_is_gone():
        code = code or BROKEN_PIPE
    if several_processes():
        sys.stderr.flush()
        os._exit(code)
    return code
