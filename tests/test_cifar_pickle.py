"""CIFAR's pickles are read; others are refused before they can run code."""

import pickle

import numpy as np
import pytest

from builders import Gadget, write_cifar
from cifar_dataset import read_split
from cifar_pickle import read_pickle


def test_a_pickle_that_tries_to_run_code_is_refused(tmp_path):
    target = tmp_path / "owned"
    (tmp_path / "train").write_bytes(pickle.dumps({b"data": Gadget(target)}))
    with pytest.raises(ValueError, match="train .*asks for"):
        read_pickle(tmp_path / "train")
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x80\x02" + b"(" * 100_000 + b".", "damaged"),
        (b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.", "damaged"),
        (pickle.dumps(np.empty(3, object), 2), "other values than bytes"),
        (pickle.dumps(np.dtype("O")), "other values than bytes"),
        (pickle.dumps(bytearray(9), 5), "holds a bytearray"),
        (pickle.dumps({1, 2}, 4), "holds a set"),
        (b"cnumpy.core.multiarray\n_reconstruct\n}(X\x01\x00\x00\x00aK\x01ub.", "holds a function"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.", "asks for an encoding"),
    ],
)
def test_a_pickle_that_asks_for_more_than_data_is_refused(tmp_path, content, match):
    (tmp_path / "train").write_bytes(content)
    with pytest.raises(ValueError, match=f"train .*{match}"):
        read_pickle(tmp_path / "train")


@pytest.mark.parametrize("kept", [0, 1, 100, 8_000_000])
def test_truncated_file(tmp_path, kept):
    write_cifar(tmp_path)
    path = tmp_path / "cifar-100-python" / "train"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="train is damaged"):
        read_split("cifar100", tmp_path, "train")
