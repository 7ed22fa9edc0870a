"""Run a script in several processes of one job, as torchrun does, but forked from one process: PyTorch is imported once.

    python tests/forked.py COUNT SCRIPT FLAGS...
"""

import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch  # noqa: F401  (here and not in every child)
import torch._dynamo  # noqa: F401  (else each child's optimizer imports it, for a second)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fork(count: int, work: Callable[[], object]) -> None:
    """Call `work` in `count` processes that have torchrun's environment variables. SystemExit with the code of the first that failed.

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
    sys.argv = [script, *flags]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    fork(int(sys.argv[1]), lambda: run_script(*sys.argv[2:]))
