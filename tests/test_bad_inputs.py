"""Bad files: code never runs from data, and what is damaged or not of this run ends in one line that names it."""

import pickle
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cifar_test
import cifar_train
from cifar_dataset import read_images
from egtea_clips import read_class_names, read_clips, read_lines
from faults.gadgets import CONTAINERS, call_targets, hostile_pickles
from faults.states import NO_MODEL, NOT_THIS_RUN
from imagenet_config import read_config
from imagenet_lists import read_list
from longtail.checkpoints import load_checkpoint, save_checkpoint
from longtail.logs import read_log

FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WORDS = ("a-b-c-d", "train/a.JPEG", "..", "/", "lr:", "num_classes:", "&a", "*a", "[", "{", "epoch", "\0", '"')
WORD = st.one_of(st.text(max_size=8), st.integers().map(str), st.sampled_from(WORDS))
LINE = st.lists(WORD, max_size=5).map(" ".join)
LINES = st.lists(LINE, max_size=6).map("\n".join)
BYTES = st.one_of(st.binary(max_size=300), LINES.map(lambda text: text.encode("utf-8", "surrogatepass")))
RUN = ("--dataset", "digits", "--imbalance", "100", "--max_epochs", "2")
NAME = "digits_imbalance100"
pytestmark = pytest.mark.usefixtures("shallow_networks")


def test_the_gadgets_would_work(tmp_path):
    """Python's own unpickler runs them."""
    canary = tmp_path / "canary"
    name, content = next(hostile_pickles(canary))
    assert name == "builtins.open by_reduce"
    pickle.loads(content)
    assert canary.exists()


def test_no_code_runs_from_a_file_of_cifar(tmp_path):
    canary, path, count = tmp_path / "canary", tmp_path / "data_batch_1", 0
    for name, content in hostile_pickles(canary):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="data_batch_1"):
            read_images(path, "cifar10")
        assert not canary.exists(), name
        count += 1
    assert count == 12 * len(call_targets(canary))


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container.__name__)
def test_no_code_runs_from_a_checkpoint(container, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "best.pth"
    for name, content in hostile_pickles(canary):
        path.write_bytes(container(content))
        with pytest.raises(ValueError, match=r"best\.pth"):
            load_checkpoint(path)
        assert not canary.exists(), name


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two epochs of which the first is finished."""
    folder = tmp_path_factory.mktemp("run")
    assert cifar_train.main([*RUN, "--save_model", str(folder)]) == 0
    log = folder / f"{NAME}.csv"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    for path in folder.glob("*.pth"):
        save_checkpoint(path, {**load_checkpoint(path), "epoch": 1})
    return folder


def copy_of(run: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in run.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", NO_MODEL)
def test_what_is_no_model_is_not_tested(name, run, tmp_path, failing):
    torch.save(NO_MODEL[name](load_checkpoint(run / f"best_{NAME}.pth")), tmp_path / f"best_{NAME}.pth")
    assert f"best_{NAME}.pth" in failing(cifar_test.main, "--saved_model_path", tmp_path / f"best_{NAME}.pth")


@pytest.mark.parametrize("name", [*NO_MODEL, *NOT_THIS_RUN])
def test_what_is_not_of_this_run_is_not_resumed(name, run, tmp_path, failing):
    """And nothing in the folder changes."""
    folder = copy_of(run, tmp_path / "run")
    last = folder / f"last_{NAME}.pth"
    torch.save((NO_MODEL | NOT_THIS_RUN)[name](load_checkpoint(last)), last)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert f"last_{NAME}.pth" in failing(cifar_train.main, *RUN, "--save_model", folder, "--resume")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_web_page_is_no_checkpoint(run, tmp_path, failing):
    page = tmp_path / f"best_{NAME}.pth"
    page.write_text("<!DOCTYPE html>\n<html><body>404</body></html>\n")
    assert page.name in failing(cifar_test.main, "--saved_model_path", page)


def readable(read, path: Path, content: bytes) -> None:
    """Read, or refused with an error that a script tells in one line."""
    path.write_bytes(content)
    try:
        read(path)
    except (ValueError, OSError) as error:
        assert str(error)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_list(path, path.parent, 3),
        read_clips,
        lambda path: read_class_names(path, 3),
        read_lines,
        read_config,
        read_log,
        lambda path: read_images(path, "cifar10"),
        load_checkpoint,
    ],
    ids=["list", "split", "names", "annotations", "YAML", "log", "pickle", "checkpoint"],
)
@FEW
@given(content=BYTES)
def test_any_bytes_are_read_or_refused(tmp_path, read, content):
    readable(read, tmp_path / "file", content)


@FEW
@given(cut=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 999))
def test_a_cut_or_changed_checkpoint(tmp_path, cut, seed):
    path, rng = tmp_path / "a.pth", random.Random(seed)
    save_checkpoint(path, {"weights": torch.arange(40.0), "epoch": 3})
    content = bytearray(path.read_bytes())
    readable(load_checkpoint, path, bytes(content[: int(cut * len(content))]))
    for _ in range(rng.randint(1, 5)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    readable(load_checkpoint, path, bytes(content))
