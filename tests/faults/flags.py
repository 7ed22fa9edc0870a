"""Bad settings: of the YAML file, of a note, and of every script's flags."""

import random

from mutations import LONG, TEXT, Bytes, cut_before

REQUIRED = ("data_root", "train_list", "val_list", "test_list", "num_classes", "num_epochs", "batch_size", "lr")
BAD_WHOLE = {
    "0": "0",
    "-1": "-1",
    "a fraction": "1.5",
    "text": "many",
    "nothing": "",
    "a list": "[1]",
    "a mapping": "{a: 1}",
    "true": "true",
    "2 ** 32": "4294967296",
    "400 digits": "9" * 400,
    "5000 digits": LONG,
    "a date": "2020-01-01",
    "nan": ".nan",
    "infinity": ".inf",
}
BAD_NUMBER = {
    "0": "0",
    "-1": "-1",
    "text": "many",
    "a list": "[1]",
    "a mapping": "{a: 1}",
    "true": "true",
    "nan": ".nan",
    "infinity": ".inf",
    "1e400": "1e400",
    "400 digits": "9" * 400,
    "nothing": "",
    "5000 digits": LONG,
}
BAD_PATH = {
    "a number": "5",
    "a list": "[x]",
    "nothing": "",
    "no such user's home": "~nosuchuser/x",
    "a NUL byte": '"x\\0"',
    "a name without end": "x" * 9000,
    "nowhere": "/nowhere",
    "a device": "/dev/zero",
    "empty": '""',
}
BAD_PATHS = ("data_root", "train_list", "val_list", "test_list", "first_stage")
BAD_WORD = {"text": "nothing", "a number": "5", "a list": "[CE]", "a mapping": "{CE: 1}", "nothing": ""}
BAD_VALUES = {
    **dict.fromkeys(("num_epochs", "batch_size", "n_gpus"), BAD_WHOLE),
    "seed": {k: v for k, v in BAD_WHOLE.items() if k != "0"},
    "num_classes": BAD_WHOLE | {"4": "4", "a billion": "1000000000", "2 ** 32 - 1": "4294967295"},
    "image_size": BAD_WHOLE | {"more than test_resize": "37", "a million": "1000000\ntest_resize: 1000000"},
    "test_resize": BAD_WHOLE | {"a billion": "1000000000"},
    "lr": BAD_NUMBER,
    "tau": BAD_NUMBER,
    "momentum": {k: v for k, v in BAD_NUMBER.items() if k != "0"},
    "weight_decay": {k: v for k, v in BAD_NUMBER.items() if k != "0"},
    **dict.fromkeys(BAD_PATHS, BAD_PATH),
    **dict.fromkeys(("stage", "loss_type", "reduction", "sampling", "precision"), BAD_WORD),
}
BAD_VALUES["first_stage"] = {name: value for name, value in BAD_PATH.items() if name != "nothing"}
SHOWN_ELSEWHERE = tuple(
    f"run.yaml, {key}," for key in (*BAD_PATHS, "num_classes")
)  # what is wrong is the file that it names


def set_key(key: str, value: str) -> Bytes:
    """Another value, in the place of the old one if there is one."""

    def change(content: bytes, rng: random.Random) -> bytes:
        names = {key, *(line.split(":")[0] for line in value.splitlines()[1:])}
        kept = [line for line in content.decode().splitlines() if line.split(":")[0] not in names]
        return "\n".join([*kept, f"{key}: {value}", ""]).encode()

    return change


def without(key: str) -> Bytes:
    return lambda content, rng: b"".join(
        line for line in content.splitlines(keepends=True) if not line.startswith(key.encode() + b":")
    )


def append(text: str) -> Bytes:
    return lambda content, rng: content + text.encode()


YAML: dict[str, Bytes] = (
    TEXT
    | {
        "truncated": cut_before(b"\nlr"),
        "a list": lambda content, rng: b"- a\n- b\n",
        "a word": lambda content, rng: b"settings\n",
        "a number": lambda content, rng: b"5\n",
        "an unknown key": append("unknown: 1\n"),
        "a misspelt key": append("learning_rate: 1\n"),
        "a key twice": append("lr: 0.1\n"),
        "a number for a key": append("1: 2\n"),
        "a list for a key": append("? [a]\n: 1\n"),
        "a tab": append("gamma:\n\t1\n"),
        "an open quote": append('gamma: "1\n'),
        "two documents": append("---\nlr: 1\n"),
        "an unknown anchor": append("gamma: *x\n"),
        "a list in itself": append("gamma: &x [*x]\n"),
        "brackets without end": append("gamma: " + "[" * 100_000),
        "a Python object": append("gamma: !!python/object/apply:os.system ['touch canary']\n"),
        "a Python name": append("gamma: !!python/name:os.system\n"),
        "a Python module": append("gamma: !!python/module:os\n"),
        "an unknown tag": append("gamma: !thing 1\n"),
        "binary": append("gamma: !!binary x\n"),
        "sixties without end": append("gamma: 1" + ":59" * 1500 + "\n"),
        "a set": append("gamma: !!set {a, b}\n"),
        "a merge": append("<<: {lr: 1}\n"),
        "a million keys": append("".join(f"k{number}: 1\n" for number in range(1_000_000))),
    }
    | {f"no {key}": without(key) for key in REQUIRED}
    | {f"{key}, {name}": set_key(key, value) for key, values in BAD_VALUES.items() for name, value in values.items()}
)
NOTE: dict[str, Bytes] = {name: TEXT[name] for name in TEXT if name != "a NUL byte before"} | {
    name: (lambda content, rng, value=value: value)
    for name, value in {
        "a list": b"[1]",
        "another choice": b'{"every": 2}',
        "text": b'{"every": "1"}',
        "no choice": b"{}",
        "null": b"null",
        "brackets without end": b"[" * 1_000_000,
    }.items()
}

WHOLE = ("0", "-1", "1.5", "x", "", "nan", LONG, "1" * 30, "\xb2", "0x10", "1e3")
NUMBER = ("0", "-1", "x", "", "nan", "inf", "-inf", "1e400", LONG)
SEED = ("-1", "1.5", "x", "", "4294967296", LONG)
FOLDER = ("FOLDER/file/run", "/dev/null/run", "/proc/run", "FOLDER/" + "x" * 9000)
FILE = (
    "FOLDER/none",
    "FOLDER",
    "FOLDER/file",
    "/dev/zero",
    "/dev/null",
    "",
    "x" * 9000,
    "~nosuchuser/x",
    "FOLDER/file/x",
)
UNKNOWN = {
    "--unknown": ("1", "NOTHING", "a\nb"),
    "--a\nb": ("NOTHING",),
    "-x": ("NOTHING",),
    "stray\nword": ("NOTHING",),
}
GPUS = {"--n_gpus": ("0", "-1", "x", "1.5", LONG, "")}
LOSS = {
    "--loss_type": ("x", "", "ce", "a\nb"),
    "--tau": NUMBER,
    "--gamma": ("-1", "x", "nan", "inf", LONG),
    "--beta": ("1", "-1", "x", "nan"),
    "--reduction": ("x", ""),
    "--eql_gamma": ("-1", "2", "x", "nan"),
    "--eql_lambda": ("-1", "x", "nan"),
}
TRAINING = {
    **UNKNOWN,
    **GPUS,
    **LOSS,
    "--max_epochs": WHOLE[:-4],
    "--batch_size": WHOLE,
    "--lr": NUMBER,
    "--seed": SEED,
    "--validate_after_every": WHOLE[:7],
    "--precision": ("x", "fp16"),
    "--save_model": FOLDER,
}
FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar_train": {
        **TRAINING,
        "--imbalance": (*NUMBER[:8], "0.5", "115", "1e9"),
        "--dataset": ("x", "cifar100"),
        "--class_num": ("3", "0", "x", "100"),
        "--recipe": ("x", "fast"),
        "--protocol": ("x", ""),
        "--epochs": ("3",),
        "--max_epoch": ("3",),
        "--resume": ("1",),
    },
    "cifar_test": {
        **UNKNOWN,
        **GPUS,
        "--class_num": ("3", "100", "x"),
        "--dataset": ("cifar10", "x"),
        "--imbalance": ("0", "-1", "nan", "inf"),
        "--normalization": ("x",),
        "--precision": ("x",),
        "--saved_model_path": FILE,
        "--json": ("FOLDER", *FOLDER),
    },
    "main": {
        **UNKNOWN,
        **GPUS,
        "--cfg": FILE,
        "--batch_size": WHOLE,
        "--seed": SEED,
        "--workers": ("-1", "x", "1.5"),
        "--data_root": (*FILE[:5], *FILE[6:]),
        "--model_dir": (*FOLDER, "~nosuchuser/x", "FOLDER/test"),
        "--tau_norm": ("NOTHING",),
        "--ncm": ("NOTHING", "1"),
    },
    "main_test": {
        "--cfg": FILE,
        "--model_dir": (*FILE[:5], *FILE[6:]),
        "--resume": ("NOTHING",),
        "--overwrite": ("NOTHING",),
        "--data_root": (*FILE[:5], *FILE[6:]),
        "--n_gpus": ("0",),
    },
    "EGTEA_train": {
        **TRAINING,
        "--data_root": FILE,
        "--train_file": FILE,
        "--val_file": FILE,
        "--frames_per_clip": (*WHOLE[:7], "1000000000"),
        "--sample_size": (*WHOLE[:7], "1000000"),
        "--pretrained_model": FILE,
        "--accumulate": (*WHOLE[:7], "5"),
        "--head_lr": NUMBER,
        "--momentum": ("1", "-1", "x", "nan"),
        "--workers": SEED,
        "--class_names": ("FOLDER/binary",),
    },
    "EGTEA_test": {
        **UNKNOWN,
        **GPUS,
        "--trained_model": FILE,
        "--data_root": FILE,
        "--test_file": FILE,
        "--frames_per_clip": (*WHOLE[:7], "1000000000"),
        "--sample_size": (*WHOLE[:7], "1000000"),
        "--majority_above": WHOLE[:7],
        "--batch_size": WHOLE,
        "--workers": SEED,
        "--figure": (*FOLDER, "FOLDER/figure.xyz"),
        "--json": (*FOLDER, "FOLDER"),
    },
    "plot": {**UNKNOWN, "--out": (*FOLDER, "FOLDER/file")},
    "extract_frames": {
        **UNKNOWN,
        "--videos": FILE,
        "--out": (*FOLDER, "FOLDER/file"),
        "--every": WHOLE[:7],
        "--workers": WHOLE[:7],
    },
    "make_splits": {**UNKNOWN, "--annotations": FILE, "--out": (*FOLDER, "FOLDER/file")},
}
