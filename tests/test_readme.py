"""The code that the pages show: run as it stands there."""

import textwrap

import torch

from conftest import ROOT


def test_the_trained_network_of_the_page(capsys):
    """The code as it stands in CIFAR-LT/README.md, from this clone, on a grey picture."""
    code = (ROOT / "CIFAR-LT/README.md").read_text().split("\n    import torch\n    model = ", 1)[1].split("\n\n", 1)[0]
    names = {"torch": torch, "picture": torch.full((3, 32, 32), 128, dtype=torch.uint8)}
    exec(textwrap.dedent(f"    model = {code}").replace("path/to/the/clone", str(ROOT)), names)
    assert names["scores"].shape == (1, 100) and capsys.readouterr().out.strip() in names["model"].class_names
