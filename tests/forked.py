"""Run scripts in processes that are forked from one that has imported PyTorch: starting Python with it takes 3
seconds of a core.

conftest.py's `shell` and `processes` use it. A process for tests that look at the start itself is `started`.
"""

import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path

PRELOADED = [
    "torch",
    "torch._dynamo",
    "sklearn.datasets",
]  # the second by each optimizer, for a second; the third for the digits
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [str(ROOT / folder) for folder in ("CIFAR-LT", "ImageNet-LT/data", "ImageNet-LT", "EGTEA/data", "EGTEA", ".")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fork(count: int, work: Callable[[], object]) -> None:
    """Call `work` in `count` processes that have torchrun's environment variables.

    SystemExit with the code of the first that failed.

    PyTorch must not have started a thread yet.
    """
    os.environ.update(WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            code: object = 0
            try:
                work()
            except SystemExit as end:
                code = end.code
            except BaseException as error:
                code = repr(error)
            if not isinstance(code, int | None):
                print(code, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else int(code is not None))
        children.append(child)
    for code in [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]:
        if code:
            raise SystemExit(code)


def run_script(script: str, *flags: str) -> None:
    """Run a script, or after "-c" code, as `python script flags` does."""
    if script == "-c":
        code, *rest = flags
        sys.argv = ["-c", *rest]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [script, *flags]
        sys.path.insert(0, str(Path(script).resolve().parent))
        runpy.run_path(script, run_name="__main__")


def become(count: int, command: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    """Turn this process, of multiprocessing's fork server, into `count` processes of a job that run the command.

    Unlike in a process that was started, functions of atexit are not called at the end.
    """
    os.setsid()  # so that all of it can be killed
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    packages = [path for path in sys.path if path not in ("", str(ROOT), str(ROOT / "tests"), *FOLDERS)]  # not pytest's
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(":")), *packages]
    if count > 1:
        fork(count, lambda: run_script(*command))
    else:
        run_script(*command)
