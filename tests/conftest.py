"""The root and the three experiment folders on sys.path (the tests import from them), and what several test files
share."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from forked import FOLDERS, PRELOADED, become

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"  # real data that a developer may have beside the repository
sys.path[:0] = FOLDERS
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of every process here: tests may run beside other work

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOADED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files whose single tests take longest first, so that no process waits for one at the end."""
    items.sort(
        key=lambda item: item.path.stem not in ("test_faults", "test_machines", "test_processes", "test_published")
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the development data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Tiny videos of three verbs as EGTEA's scripts bring them to frames/ and splits/; no test changes them."""
    from builders import make_clips

    return make_clips(tmp_path_factory.mktemp("clips") / "data")


@pytest.fixture(scope="module")
def shallow_networks():
    """ResNet-32 and 3D-ResNeXt-101 with one block a layer, for the rest of the test file.

    shallow.py does so in other processes.
    """
    from shallow import SHALLOW

    with pytest.MonkeyPatch.context() as patch:
        for network, make_layer in SHALLOW.items():
            patch.setattr(network, "_make_layer", make_layer)
        yield


@pytest.fixture(autouse=True)
def no_stop_signal(monkeypatch):
    """Forget, after each test, a stop signal that arrived in it."""
    monkeypatch.setattr("longtail.signals._received", 0)


@pytest.fixture
def failing(capsys):
    """Call main(argv) and get its one line on stderr; the exit code must be 2."""

    def call(main, *argv: object) -> str:
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as end:
            code = end.code
        error = capsys.readouterr().err
        assert code == 2, error
        assert error.count("\n") == 1 and "Traceback" not in error, error
        return error

    return call


@pytest.fixture
def started():
    """Run a script in a process of its own, as a user types it; CompletedProcess."""

    def run(
        *command: object, cwd: Path | None = None, timeout: float = 200, **environment: str
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture
def processes(tmp_path_factory):
    """Run a script in several processes of one job, forked from one; CompletedProcess. test_machines.py has torchrun
    itself."""

    def run(
        count: int, *command: object, cwd: Path | None = None, timeout: float = 200, **environment: str
    ) -> subprocess.CompletedProcess:
        folder = tmp_path_factory.mktemp("forked")
        out, err = folder / "out", folder / "err"
        job = SERVER.Process(
            target=become,
            args=(count, [*map(str, command)], cwd or Path.cwd(), {**os.environ, **environment}, out, err),
        )
        for file in (out, err):
            file.touch()
        job.start()
        try:
            job.join(timeout)
        finally:
            if job.exitcode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGKILL)
                job.kill()
                job.join()
        return subprocess.CompletedProcess(command, job.exitcode, out.read_text(), err.read_text())

    return run


@pytest.fixture
def shell(processes):
    """Run a script, or code after "-c", in one process that is forked; CompletedProcess. See `started`."""
    return partial(processes, 1)
