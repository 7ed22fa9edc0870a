"""Bad files and flags: a small count of the corpus, whether its judge sees a failure, and readers that any bytes
meet."""

import csv
import pickle
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar_dataset import read_images
from conftest import ROOT
from egtea_clips import read_class_names, read_clips, read_lines
from imagenet_config import read_config
from imagenet_lists import read_list
from longtail.checkpoints import load_checkpoint, save_checkpoint
from longtail.logs import read_log
from test_cifar_dataset import write_python2

FAULTS = ROOT / "tests/faults"
FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LINES = st.lists(
    st.lists(
        st.one_of(
            st.text(max_size=8),
            st.integers().map(str),
            st.sampled_from(
                ("a-b-c-d", "train/a.JPEG", "..", "/", "lr:", "num_classes:", "&a", "*a", "[", "{", "epoch", "\0", '"')
            ),
        ),
        max_size=5,
    ).map(" ".join),
    max_size=6,
).map("\n".join)
BYTES = st.one_of(st.binary(max_size=300), LINES.map(lambda text: text.encode("utf-8", "surrogatepass")))


def test_a_few_of_every_kind(shell):
    run = shell(FAULTS / "run.py", "--kind", "bad input", "--count", 24)
    assert run.returncode == 0 and run.stdout.splitlines()[-1] == "24 tried, 0 lost", run.stdout
    assert run.stdout.count("bad input: ") >= 12


JUDGED = """
import random, sys, types
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import bad_inputs
from bad_inputs import Case, judge

bad_inputs.SECONDS, bad_inputs.MEMORY = 1, 200 << 20
folder = Path(sys.argv[1])
(folder / "run").mkdir()
(folder / "run/best.pth").write_text("earlier")

def told(main):
    script = types.ModuleType("script")
    script.__file__, script.main = "script.py", main
    case = Case("kind", "name", script, [], folder / "run", "x.csv", folder / "canary")
    kind, fine, description = judge(case, folder)
    print(fine, description.partition(" (")[0])

def tell(argv, line="error: x.csv is bad\\n", code=2):
    sys.stderr.write(line)
    return code

told(tell)
told(lambda argv: 1 / 0)
told(lambda argv: tell(argv, code=0))
told(lambda argv: tell(argv, "error: something is bad\\n"))
told(lambda argv: tell(argv, "x.csv\\nis bad\\n"))
told(lambda argv: __import__("time").sleep(60))
told(lambda argv: tell(argv, line=f"x.csv {len(bytearray(300 << 20))}\\n"))
told(lambda argv: tell(argv, line=f"x.csv {(folder / 'run/best.pth').write_text('new')}\\n"))
(folder / "run/best.pth").write_text("earlier")
told(lambda argv: tell(argv, line=f"x.csv {(folder / 'canary').write_text('')}\\n"))
"""


def test_the_judge_notices(started, tmp_path):
    run = started("-c", JUDGED, tmp_path, FAULTS)
    assert run.stdout.splitlines() == [
        "True script.py, name: fine",
        "False script.py, name: exit code 1, not one line that names x.csv",
        "False script.py, name: exit code 0",
        "False script.py, name: not one line that names x.csv",
        "False script.py, name: not one line that names x.csv",
        "False script.py, name: did not end within 1 s",
        "False script.py, name: 0.3 GB of memory",
        "False script.py, name: earlier results changed",
        "False script.py, name: the file ran code",
    ], run.stderr


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


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@FEW
@given(data=VALUES, labels=VALUES)
def test_any_values_in_a_cifar_file(tmp_path, data, labels):
    write_python2(tmp_path / "file", {b"data": data, b"labels": labels})
    with pytest.raises(ValueError, match="file"):
        read_images(tmp_path / "file", "cifar10")


@FEW
@given(value=VALUES)
def test_any_value_in_a_bare_pickle_or_a_checkpoint(tmp_path, value):
    readable(load_checkpoint, tmp_path / "file", pickle.dumps(value, 2))
    save_checkpoint(tmp_path / "file", {"arguments": value, "epoch": value})
    readable(load_checkpoint, tmp_path / "file", (tmp_path / "file").read_bytes())


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


@FEW
@given(
    rows=st.lists(
        st.lists(st.one_of(st.integers(0, 3).map(str), st.floats().map(str), st.text(max_size=4)), max_size=4),
        max_size=4,
    )
)
def test_any_table_as_a_log(tmp_path, rows):
    with open(tmp_path / "x.csv", "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        csv.writer(file).writerows([["epoch", "loss"], *rows])
    readable(read_log, tmp_path / "x.csv", (tmp_path / "x.csv").read_bytes())
