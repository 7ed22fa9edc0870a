"""Bad inputs of every kind: valid data once, then in each case one thing of it is spoilt, and the script that reads it is chosen."""

import dataclasses
import json
import os
import random
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2  # noqa: F401  (before the children fork, so that each starts at once)
import flags
import matplotlib.figure  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mutations
import numpy as np
import sklearn.datasets
import states
import torch
import torchvision.io  # noqa: F401
from bad_inputs import Case
from gadgets import hostile_checkpoint, hostile_pickle

import cifar_test
import cifar_train
import EGTEA_test
import EGTEA_train
import extract_frames
import main
import make_splits
from image_builders import jpeg, make_folder
from longtail import plot
from longtail.checkpoints import load_checkpoint, save_checkpoint
from resnext3d import ResNeXt3D
from test_cifar_dataset import write_cifar
from test_egtea_cli import CLIPS, training
from test_extract_frames import write_video
from test_imagenet_main import write_config

DIGITS = ["--dataset", "digits", "--imbalance", "100", "--max_epochs", "2"]
CIFAR10 = ["--dataset", "cifar10", "--imbalance", "2", "--max_epochs", "1"]


def in_child(action: Callable[[], object]) -> None:
    """Whatever starts threads runs in a process of its own: the parent forks."""
    child = os.fork()
    if not child:
        code = 1
        try:
            with open(os.devnull, "w") as sys.stdout:
                action()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the valid data could not be made")


def small(value: Any) -> Any:
    """The same state with tensors of one number, which a file holds once: valid, and quickly written."""
    if isinstance(value, torch.Tensor):
        return value if value.numel() < 1000 else torch.full((1,), 0.01, dtype=value.dtype).expand(value.shape)
    if isinstance(value, dict):
        return {key: small(entry) for key, entry in value.items()}
    return value


class Corpus:
    """The valid data below `root`, and `case`, which spoils a copy of some of it."""

    def __init__(self, root: Path):
        root.mkdir()
        sklearn.datasets.load_digits()
        self.root = root
        self.kinds = {
            "list file": self.list_file,
            "split file": self.split_file,
            "YAML": self.yaml,
            "pickle": self.pickle,
            "hostile pickle": self.hostile_pickle,
            "JPEG": self.image,
            "video": self.video,
            "checkpoint": self.checkpoint,
            "hostile checkpoint": self.hostile_checkpoint,
            "CSV log": self.log,
            "flags": self.flags,
            "fuzzed": self.fuzzed,
        }
        self.decks: dict[str, list[Any]] = {}
        self.fuzzing = False
        in_child(self.make_data)
        in_child(self.make_runs)
        self.states = {
            name: load_checkpoint(path)
            for name, path in {
                "CIFAR-LT": root / "digits/best_digits_imbalance100.pth",
                "ImageNet-LT": root / "run/final_model_checkpoint.pth",
                "EGTEA": root / "egtea/best_model.pth",
                "CIFAR-LT resumed": root / "digits/last_digits_imbalance100.pth",
                "ImageNet-LT resumed": root / "run/last_run.pth",
                "EGTEA resumed": root / "egtea/last_model.pth",
            }.items()
        }

    def case(self, folder: Path, number: int, rng: random.Random) -> Case:
        """The number-th case, of the kinds in turn."""
        return list(self.kinds.values())[number % len(self.kinds)](folder, rng)

    def draw(self, table: dict[Any, Any], name: str, rng: random.Random) -> Any:
        """An entry of a table, none again before each had its turn."""
        deck = self.decks.setdefault(name, [])
        if not deck:
            deck += rng.sample(list(table), len(table))
        return deck.pop()

    # --- valid data ---

    def make_data(self) -> None:
        write_cifar(self.root / "cifar", "cifar10", per_class=27)
        make_folder(self.root / "images", {"train": [8, 4, 2], "val": [2, 2, 2], "test": [2, 2, 2]})
        (self.root / "images/Small.yaml").write_text(
            write_config(self.root, self.root / "images", "run", num_epochs=2).read_text()
        )
        splits, annotations = self.root / "splits", self.root / "annotations"
        for place in (splits, annotations, self.root / "videos"):
            place.mkdir()
        for subject, verbs in CLIPS.items():
            lines = []
            for number, verb in enumerate(verbs):
                clip = f"{subject}-R01-Tea-{number}-F{number:06d}"
                place = self.root / f"frames/{subject}-R01-Tea/{clip}"
                place.mkdir(parents=True)
                for frame in range(3):
                    (place / f"{frame:06d}.jpg").write_bytes(jpeg((80 * verb, 90, 70 + frame)))
                (place / "3.frames").touch()  # as the extraction does, so that a missing frame is noticed
                lines.append(f"{clip} 1 {verb} 1\n")
            name = {"P01": "train", "P20": "val", "OP01": "test"}[subject]
            (splits / f"{name}_split.txt").write_text("".join(lines))
            with open(annotations / f"{'test' if name == 'test' else 'train'}_split1.txt", "a") as file:
                file.write("".join(lines))
        write_video(self.root / "videos/P01-R01-Tea-1-F1.mp4", [20 * frame for frame in range(12)])

    def make_runs(self) -> None:
        """A run of each experiment, which stopped after the first of two epochs."""
        torch.set_num_threads(1)
        assert cifar_train.main([*DIGITS, "--save_model", str(self.root / "digits")]) == 0
        assert main.main(["--cfg", str(self.root / "run.yaml")]) == 0
        with torch.device("meta"):
            network = ResNeXt3D(3)
        self.make_egtea_run(
            {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in network.state_dict().items()}
        )
        for folder in (self.root / "digits", self.root / "run", self.root / "egtea"):
            log = next(folder.glob("*.csv"))
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
            for path in folder.glob("*.pth"):
                save_checkpoint(path, small({**load_checkpoint(path), "epoch": 1}))

    def make_egtea_run(self, weights: dict[str, torch.Tensor]) -> None:
        """Without training, which would take longer than all else."""
        folder = self.root / "egtea"
        folder.mkdir()
        arguments = {"loss_type": "CE", "tau": "dynamic", "max_epochs": 2, "seed": 0}
        state = {
            "state_dict": weights,
            "criterion": {},
            "best_accuracy": 0.5,
            "epoch": 1,
            "accuracy": 0.5,
            "arguments": arguments,
            "class_names": ["take", "put", "cut"],
            "class_counts": [4, 2, 2],
            "frames_per_clip": 3,
            "sample_size": 40,
            "head": "linear",
            "normalization": "kinetics-mean",
        }
        save_checkpoint(folder / "best_model.pth", state)
        save_checkpoint(folder / "last_model.pth", {**state, "optimizer": {"state": {}, "param_groups": []}})
        columns = [
            "epoch",
            "lr",
            "loss",
            "accuracy",
            "tau",
            *(f"{kind}_{c}" for kind in ("accuracy", "weight") for c in range(3)),
        ]
        (folder / "model.csv").write_text(",".join(columns) + "\n1" + ",0.5" * (len(columns) - 1) + "\n")
        (folder / "model.json").write_text(json.dumps({"arguments": arguments, "class_counts": [4, 2, 2]}))
        (folder / "confusion_matrix.png").write_bytes(b"earlier")

    # --- copies, and the arguments that read them ---

    def run(self, name: str, folder: Path) -> Path:
        """A copy of a run's folder."""
        return Path(shutil.copytree(self.root / name, folder / name))

    def spoil(
        self, path: Path, table: dict[str, mutations.Bytes], name: str, rng: random.Random, places: bool = True
    ) -> str:
        """Put something bad where the valid file `path` is; what it is called."""
        if self.fuzzing:
            table, places, name = mutations.FUZZED, False, "fuzzed"
        whole = {**table, **(mutations.PLACES if places else {})}
        mutation = self.draw(whole, name, rng)
        content = path.read_bytes()
        path.unlink()
        if mutation in mutations.PLACES:
            mutations.PLACES[mutation](path)
        else:
            path.write_bytes(table[mutation](content, rng))
        return f"{path.name}, {mutation}"

    def linked(self, name: str, folder: Path) -> Path:
        """A copy of a folder, by links to its files, and their folders' copies."""
        return Path(shutil.copytree(self.root / name, folder / name, copy_function=os.link))

    def replaced(self, path: Path) -> Path:
        """A file that may be changed, where a link was."""
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        return path

    def config(self, folder: Path, **settings: object) -> Path:
        """A YAML file whose run is the copy in `folder`."""
        return write_config(folder, self.root / "images", "run", **{"num_epochs": 2, **settings})

    def digits(self, run: Path) -> list[str]:
        return [*DIGITS, "--save_model", str(run), "--resume"]

    def egtea_training(self, run: Path) -> list[str]:
        return training(self.root, run, "--workers", 0, "--loss_type", "CE", "--resume")

    def egtea_test(self, run: Path, checkpoint: Path, **places: Path) -> list[str]:
        places = {"data_root": self.root / "frames", "test_file": self.root / "splits/test_split.txt", **places}
        return [
            "--trained_model",
            str(checkpoint),
            "--figure",
            str(run / "confusion_matrix.png"),
            "--workers",
            "0",
            *(word for key, value in places.items() for word in (f"--{key}", str(value))),
        ]

    # --- the kinds ---

    def list_file(self, folder: Path, rng: random.Random) -> Case:
        run, split = self.run("run", folder), rng.choice(("train", "val", "test"))
        path = folder / f"Small_{split}.txt"
        shutil.copy(self.root / "images" / path.name, path)
        name = self.spoil(path, mutations.LIST, "list", rng)
        mode = ["--test"] if split == "test" and rng.random() < 0.3 else [rng.choice(("--overwrite", "--resume"))]
        argv = ["--cfg", str(self.config(folder, **{f"{split}_list": path})), *mode]
        return Case("list file", name, main, argv, run, "" if name.endswith("a name without end") else path.name)

    def split_file(self, folder: Path, rng: random.Random) -> Case:
        if rng.random() < 0.3:
            return self.annotations(folder, rng)
        run, split = self.run("egtea", folder), rng.choice(("train", "val", "test"))
        path = folder / f"{split}_split.txt"
        shutil.copy(self.root / "splits" / path.name, path)
        table = {name: change for name, change in mutations.SPLIT.items() if split != "train" or name != "verb 4 of 3"}
        name = self.spoil(path, table, f"{split} split", rng)
        named = "no frames at" if "missing clip" in name or "without end" in name and "name" in name else path.name
        if split == "test":
            return Case(
                "split file", name, EGTEA_test, self.egtea_test(run, run / "best_model.pth", test_file=path), run, named
            )
        argv = [*self.egtea_training(run)[:-1], f"--{split}_file", str(path), rng.choice(("--overwrite", "--resume"))]
        return Case("split file", name, EGTEA_train, argv, run, named)

    def annotations(self, folder: Path, rng: random.Random) -> Case:
        copy = Path(shutil.copytree(self.root / "annotations", folder / "annotations"))
        out = Path(shutil.copytree(self.root / "splits", folder / "splits"))
        path = copy / rng.choice(("train_split1.txt", "test_split1.txt"))
        name = self.spoil(path, mutations.ANNOTATIONS, "annotations", rng)
        argv = ["--annotations", str(copy), "--out", str(out), "--overwrite"]
        return Case("split file", name, make_splits, argv, out, path.name.partition(".")[0].removesuffix("1"))

    def yaml(self, folder: Path, rng: random.Random) -> Case:
        run = self.run("run", folder)
        path = self.config(folder)
        name = self.spoil(path, flags.YAML, "YAML", rng)
        named = "" if name.startswith(flags.SHOWN_ELSEWHERE) else path.name
        return Case(
            "YAML",
            name,
            main,
            ["--cfg", str(path), "--model_dir", str(run), rng.choice(("--overwrite", "--resume"))],
            run,
            named,
        )

    def cifar(self, folder: Path, rng: random.Random) -> tuple[Path, Case]:
        """A file of a copy of the data set that is yet to be spoilt, and the script that will read it."""
        data, run = self.linked("cifar", folder), self.run("digits", folder)
        files = ["data_batch_1", "data_batch_5", "batches.meta", "test_batch"]
        path = self.replaced(data / "cifar-10-batches-py" / rng.choice(files))
        (run / "best_cifar10_imbalance2.pth").write_bytes(b"earlier")
        argv = [*CIFAR10, "--data_root", str(data), "--save_model", str(run), "--overwrite"]
        if path.name == "test_batch":
            argv += ["--protocol", "common"]
        return path, Case("pickle", "", cifar_train, argv, run, path.name)

    def pickle(self, folder: Path, rng: random.Random) -> Case:
        path, case = self.cifar(folder, rng)
        meta = path.name == "batches.meta"
        return dataclasses.replace(
            case, name=self.spoil(path, mutations.NAMES if meta else mutations.CIFAR, "meta" if meta else "CIFAR", rng)
        )

    def hostile_pickle(self, folder: Path, rng: random.Random) -> Case:
        path, case = self.cifar(folder, rng)
        innocent = (
            {b"label_names": [b"x"] * 10}
            if path.name == "batches.meta"
            else {b"data": np.zeros((30, 3072), np.uint8), b"labels": [n % 10 for n in range(30)]}
        )
        canary = folder / "canary"
        name, content = hostile_pickle(innocent, canary, rng)
        path.write_bytes(content)
        return dataclasses.replace(case, name=f"{path.name}, {name}", kind="hostile pickle", canary=canary)

    def image(self, folder: Path, rng: random.Random) -> Case:
        if rng.random() < 0.3:
            run, frames = self.run("egtea", folder), self.linked("frames", folder)
            path = self.replaced(frames / "OP01-R01-Tea/OP01-R01-Tea-1-F000001/000001.jpg")
            name = self.spoil(path, mutations.IMAGE, "frame", rng)
            argv = self.egtea_test(run, run / "best_model.pth", data_root=frames)
            return Case("JPEG", name, EGTEA_test, argv, run, path.parent.name, folder / "CANARY")
        run, images = self.run("run", folder), self.linked("images", folder)
        split = rng.choice(("train", "val", "test"))
        place = (
            "val/n00000001/ILSVRC2012_val_00010000.JPEG"
            if split == "test"
            else f"train/n00000001/n00000001_{split}1.JPEG"
        )
        path = self.replaced(images / place)
        name = self.spoil(path, mutations.IMAGE, "image", rng)
        argv = ["--cfg", str(self.config(folder, data_root=images)), "--test" if split == "test" else "--resume"]
        if split == "train" and path.is_file() and rng.random() < 0.5:
            argv[-1:] = ["--test", "--ncm"]
        return Case("JPEG", name, main, argv, run, path.name, folder / "CANARY")

    def video(self, folder: Path, rng: random.Random) -> Case:
        """A video that cannot be read does not stop the others: exit code 1, and it is named."""
        videos, out = self.linked("videos", folder), folder / "out"
        earlier = out / "P02-R01-Tea/P02-R01-Tea-1-F1/000000.jpg"
        earlier.parent.mkdir(parents=True)
        earlier.write_bytes(b"earlier")
        path = videos / "P01-R01-Tea-2-F2.mp4"
        shutil.copy(videos / "P01-R01-Tea-1-F1.mp4", path)
        argv = ["--videos", str(videos), "--out", str(out), "--workers", "1"]
        if rng.random() < 0.2:
            note = out / "extraction.json"
            note.write_text('{"every": 1}\n')
            name = self.spoil(note, flags.NOTE, "note", rng, places=False)
            return Case(
                "video",
                name,
                extract_frames,
                argv,
                out,
                "--every" if name.endswith("another choice") else "extraction.json",
            )
        name = self.spoil(path, {key: value for key, value in mutations.VIDEO.items()}, "video", rng)  # noqa: C416
        gone = not path.exists() and not path.is_symlink()
        return Case("video", name, extract_frames, argv, out, path.name, codes=(0,) if gone else (1,))

    def spoilt_checkpoint(self, folder: Path, rng: random.Random, spoil: Callable[[Path, str], str], kind: str) -> Case:
        """One of the places where a checkpoint is read; `spoil` puts a bad one there."""
        place = self.draw(dict.fromkeys(states.READERS), kind, rng)
        experiment = place.split()[0]
        run = self.run({"CIFAR-LT": "digits", "ImageNet-LT": "run", "EGTEA": "egtea"}[experiment], folder)
        path = {
            "CIFAR-LT resumed": run / "last_digits_imbalance100.pth",
            "ImageNet-LT resumed": run / "last_run.pth",
            "EGTEA resumed": run / "last_model.pth",
            "ImageNet-LT tested": run / "final_model_checkpoint.pth",
        }.get(place, folder / "bad_imbalance2.pth")
        first = folder / "first/final_model_checkpoint.pth"
        if place == "ImageNet-LT second stage":
            first.parent.mkdir()
            path = first
        name = spoil(path, place)
        settings = {"stage": "crt", "first_stage": first.parent} if path == first else {}
        config = self.config(folder, **settings)
        script, argv = {
            "CIFAR-LT tested": (cifar_test, ["--saved_model_path", path, "--json", run / "digits_imbalance100.json"]),
            "CIFAR-LT resumed": (cifar_train, self.digits(run)),
            "ImageNet-LT tested": (main, ["--cfg", config, "--test"]),
            "ImageNet-LT resumed": (main, ["--cfg", config, "--resume"]),
            "ImageNet-LT second stage": (main, ["--cfg", config, "--overwrite"]),
            "EGTEA tested": (
                EGTEA_test,
                [*self.egtea_test(run, path), "--train_file", self.root / "splits/train_split.txt"],
            ),
            "EGTEA resumed": (EGTEA_train, self.egtea_training(run)),
            "EGTEA pretrained": (
                EGTEA_train,
                [*self.egtea_training(run)[:-1], "--pretrained_model", path, "--overwrite"],
            ),
        }[place]
        elsewhere = {
            "size 10 ** 6": "--frames_per_clip",
            "10 ** 9 frames": "--frames_per_clip",
            "an epoch that the log lacks": ".csv",
        }
        named = elsewhere.get(name, path.name)
        return Case(kind, f"{place}, {name}", script, [str(word) for word in argv], run, named, folder / "canary")

    def checkpoint(self, folder: Path, rng: random.Random) -> Case:
        def spoil(path: Path, place: str) -> str:
            state = self.states.get(place) or self.states[place.split()[0]]
            table = states.table(place)
            if rng.random() < 0.35:
                save_checkpoint(path, state)
                return self.spoil(
                    path, states.FILES, f"file, {place}", rng, places="resumed" not in place
                )  # none: nothing to resume
            name = self.draw(table, f"state, {place}", rng)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch comments on odd tensors
                torch.save(table[name](state), path)
            return name

        return self.spoilt_checkpoint(folder, rng, spoil, "checkpoint")

    def hostile_checkpoint(self, folder: Path, rng: random.Random) -> Case:
        def spoil(path: Path, place: str) -> str:
            name, content = hostile_checkpoint(
                self.states.get(place) or self.states[place.split()[0]], folder / "canary", rng
            )
            path.write_bytes(content)
            return name

        return self.spoilt_checkpoint(folder, rng, spoil, "hostile checkpoint")

    def log(self, folder: Path, rng: random.Random) -> Case:
        name = rng.choice(("digits", "run"))
        run = self.run(name, folder)
        path = next(run.glob("*.csv"))
        if rng.random() < 0.4:
            told = self.spoil(path, mutations.LOG, "resumed log", rng)
            script, argv = (
                (cifar_train, self.digits(run))
                if name == "digits"
                else (main, ["--cfg", str(self.config(folder)), "--resume"])
            )
            return Case("CSV log", f"resumed, {told}", script, argv, run, path.name)
        argv = [str(path), "--out", str(run)]
        for picture in ("curves", "weights"):
            (run / f"{path.stem}_{picture}.png").write_bytes(b"earlier")
        (run / "classes.png").write_bytes(b"earlier")
        if rng.random() < 0.5:
            return Case(
                "CSV log", "drawn, " + self.spoil(path, mutations.LOG, "drawn log", rng), plot, argv, run, path.name
            )
        path = path.with_suffix(".json")
        return Case(
            "CSV log",
            "drawn, " + self.spoil(path, mutations.DESCRIPTION, "description", rng),
            plot,
            argv,
            run,
            path.stem,
        )

    def flags(self, folder: Path, rng: random.Random) -> Case:
        (folder / "file").write_text("")
        (folder / "binary").write_bytes(b"\xff\xfe")
        script, flag, value = self.draw(
            {
                (script, flag, value): None
                for script, table in flags.FLAGS.items()
                for flag, values in table.items()
                for value in values
            },
            "flags",
            rng,
        )
        value = value.replace("FOLDER", str(folder))
        run = self.run({"cifar": "digits", "main": "run", "plot": "run"}.get(script.split("_")[0], "egtea"), folder)
        argv = {
            "cifar_train": [*DIGITS, "--save_model", run, "--overwrite"],
            "cifar_test": ["--saved_model_path", run / "best_digits_imbalance100.pth"],
            "main": ["--cfg", self.config(folder), "--overwrite"],
            "main_test": ["--cfg", self.config(folder), "--test"],
            "EGTEA_train": [*self.egtea_training(run)[:-1], "--overwrite"],
            "EGTEA_test": self.egtea_test(run, run / "best_model.pth"),
            "plot": [run],
            "extract_frames": ["--videos", self.root / "videos", "--out", folder / "out"],
            "make_splits": ["--annotations", self.root / "annotations", "--out", folder / "out"],
        }[script]
        module = sys.modules[{"main_test": "main", "plot": "longtail.plot"}.get(script, script)]
        words = [str(word) for word in argv] + ([flag] if value == "NOTHING" else [f"{flag}={value}"])
        return Case("flags", f"{flag}={value[:60]!r}", module, words, run)

    def fuzzed(self, folder: Path, rng: random.Random) -> Case:
        """A few bytes of anything are others: it may still be valid, and then the script ends well."""
        self.fuzzing = True
        case = rng.choice([self.list_file, self.annotations, self.yaml, self.pickle, self.image, self.video, self.log])(
            folder, rng
        )
        self.fuzzing = False
        return dataclasses.replace(case, kind="fuzzed", names="", codes=(0, 1) if case.codes == (1,) else (0, 2))
