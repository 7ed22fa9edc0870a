"""Several machines, played by torchrun agents on this one: they train one job together and end with the weights of
one machine's job."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from conftest import ROOT
from forked import free_port
from longtail.checkpoints import load_checkpoint

TRAIN = (ROOT / "tests/shallow.py", ROOT / "CIFAR-LT/cifar_train.py")
JOB = ("--dataset", "digits", "--imbalance", 100, "--max_epochs", 2, "--precision", "fp32")
AGENT = (sys.executable, "-m", "torch.distributed.run")


def last(folder: Path) -> dict:
    return load_checkpoint(folder / "last_digits_imbalance100.pth")


def start_agent(rank: int, port: int, folder: Path) -> subprocess.Popen:
    rendezvous = (
        "--nnodes",
        2,
        "--node-rank",
        rank,
        "--nproc-per-node",
        1,
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        "job",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "--local-addr",
        "127.0.0.1",
    )
    return subprocess.Popen(
        [*map(str, (*AGENT, *rendezvous, *TRAIN, *JOB, "--save_model", folder))],
        text=True,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_two_agents_end_with_the_weights_of_one_machine(tmp_path, processes):
    port = free_port()
    agents = [start_agent(rank, port, tmp_path / "two") for rank in range(2)]
    outputs = [agent.communicate(timeout=150) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert sorted(out.count("epoch 2/2") for out, _ in outputs) == [0, 1]  # one process speaks for all
    alone = processes(2, *TRAIN, *JOB, "--save_model", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    assert one["accuracy"] == two["accuracy"]
    assert torch.equal(one["criterion"]["weight"], two["criterion"]["weight"])
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
