"""Rules that the whole source keeps."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

EXPERIMENTS = ("CIFAR-LT", "ImageNet-LT", "EGTEA")
MAP = (ROOT / "longtail/__init__.py").read_text()
SHARED = re.findall(r"^(\w+)\.py  ", MAP, re.MULTILINE)  # the modules of longtail, in the order of its map
SOURCES = sorted(path for folder in (*EXPERIMENTS, "longtail") for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, as `longtail.files`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"longtail.{alias.name}" for alias in node.names} if node.module == "longtail" else {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_copies_of_the_loss_are_identical():
    copies = {(ROOT / folder / "cdb_loss.py").read_bytes() for folder in EXPERIMENTS}
    assert len(copies) == 1, "run: make copies"


def test_other_file_names_are_unique():
    names = [path.name for path in SOURCES if path.name not in ("cdb_loss.py", "__init__.py")]
    assert len(names) == len(set(names))


def test_shared_modules_import_only_from_those_before_them_in_the_map():
    """So there are no circles. None imports an experiment's file."""
    assert sorted([*SHARED, "__init__"]) == sorted(path.stem for path in (ROOT / "longtail").glob("*.py"))
    ours = {path.stem for folder in EXPERIMENTS for path in (ROOT / folder).rglob("*.py")}
    before: set[str] = set()
    for module in SHARED:
        names = imported(ROOT / f"longtail/{module}.py")
        assert not names & ours, module
        assert {name for name in names if name.startswith("longtail")} <= before, module
        before.add(f"longtail.{module}")


@pytest.mark.parametrize("module", ["files", "signals", "folders", "cli", "records", "pictures"])
def test_these_need_no_torch(module):
    code = f"import sys, longtail.{module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_checkpoints_are_loaded_without_running_code(path):
    """What else could run code from data, ruff reports: S102, S301, S302, S307, S506, S605."""
    for name, keywords in calls(path):
        if name == "torch.load":
            assert keywords.get("weights_only") == "True"


def test_heavy_libraries_are_imported_only_where_they_are_used():
    """All in one process, since each would import PyTorch: what one of them imports stays."""
    scripts = ("cdb_loss", "cifar_train", "cifar_test", "EGTEA_train", "EGTEA_test")
    heavy = {"cv2", "torchvision", "matplotlib", "sklearn", "PIL"}
    code = (
        f"import importlib, sys; sys.path[:0] = {[str(ROOT / 'CIFAR-LT'), str(ROOT / 'EGTEA')]!r}\n"
        f"for name in {scripts!r}: importlib.import_module(name); print(name, {heavy!r} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout
    assert output == "".join(f"{name} set()\n" for name in scripts)


def test_cdb_loss_needs_torch_alone():
    names = imported(ROOT / "CIFAR-LT/cdb_loss.py")
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"torch"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_matplotlib_is_imported_in_one_file(path):
    """Only there is matplotlib's backend taken care of; pyplot would open a display."""
    names = imported(path)
    assert "matplotlib.pyplot" not in names
    assert path.name == "pictures.py" or "matplotlib.figure" not in names


def test_no_test_imports_another_one():
    """What several of them build is in builders.py, fixtures are in conftest.py."""
    for path in (ROOT / "tests").rglob("*.py"):
        assert not {name for name in imported(path) if name.startswith("test_")}, path
