"""The download of the published lists, from a folder instead of the network."""

import importlib.util

import pytest

from conftest import ROOT

SCRIPT = ROOT / "ImageNet-LT/data/ImageNet_LT/fetch_lists.py"
specification = importlib.util.spec_from_file_location("fetch_lists", SCRIPT)
fetch_lists = importlib.util.module_from_spec(specification)
specification.loader.exec_module(fetch_lists)
NAMES = [f"ImageNet_LT_{split}.txt" for split in ("train", "val", "test")]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A source with three files, and their blob ids as the right ones."""
    source = tmp_path / "source"
    source.mkdir()
    for name in NAMES:
        (source / name).write_bytes(name.encode())
    monkeypatch.setattr(fetch_lists, "BLOBS", {name: fetch_lists.blob_id(name.encode()) for name in NAMES})
    (tmp_path / "lists").mkdir()
    return source


def fetch(published, *flags) -> list[str]:
    return ["--folder", published.parent / "lists", "--source", f"file://{published}/", *flags]


def test_lists_are_downloaded_and_right_ones_stay(published, capsys):
    assert fetch_lists.main([str(flag) for flag in fetch(published)]) == 0
    lists = published.parent / "lists"
    assert sorted(path.name for path in lists.iterdir()) == sorted(NAMES)
    (published / NAMES[0]).unlink()
    assert fetch_lists.main([str(flag) for flag in fetch(published)]) == 0
    assert capsys.readouterr().out.count("the published list") == 6


def test_a_wrong_download_is_not_written(published, failing):
    (published / NAMES[0]).write_bytes(b"something else")
    error = failing(fetch_lists.main, *fetch(published))
    assert "its blob id is" in error and "nothing was written" in error
    assert list((published.parent / "lists").iterdir()) == []


def test_no_network_no_file(published, failing):
    (published / NAMES[0]).unlink()
    assert "could not be downloaded" in failing(fetch_lists.main, *fetch(published))
    assert f"{NAMES[0]} not found" in failing(fetch_lists.main, *fetch(published, "--check"))


def test_a_wrong_list_on_disk_is_named(published, failing):
    (published.parent / "lists" / NAMES[0]).write_bytes(b"edited")
    assert "remove it" in failing(fetch_lists.main, *fetch(published, "--check"))
    assert (published.parent / "lists" / NAMES[0]).read_bytes() == b"edited"


def test_the_published_lists_have_these_ids(shared_data):
    for name in NAMES[1:]:
        fetch_lists.check(name, (shared_data / "imagenet_lt" / name).read_bytes(), "")
    assert fetch_lists.BLOBS[NAMES[0]] == "a063f095fcd475db4cf8b0658c4b73955535bbf9"


def test_an_unknown_flag(failing):
    assert "--force" in failing(fetch_lists.main, "--force")


def test_a_process_of_its_own(started, tmp_path):
    result = started(SCRIPT, "--check", "--folder", tmp_path)
    assert fetch_lists.SOURCE.startswith("https://")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
