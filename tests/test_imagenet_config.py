"""The YAML files: what ours say, and what is said of a wrong one."""

import math
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from imagenet_config import HERE, read_config
from main import build_criterion, cosine_schedule, main

MAIN = HERE / "config/ImageNet_LT/feat_uniform_with_CDBloss.yaml"
SHIPPED = sorted((HERE / "config").rglob("*.yaml"))
NAMES = {
    "feat_uniform_with_CDBloss",
    "feat_uniform",
    "feat_balance",
    "feat_squareroot",
    "feat_shift",
    "feat_cdb_sampling",
    "cls_crt",
    "cls_lws",
}


def test_the_main_file_is_the_papers_recipe():
    config = read_config(MAIN)
    assert (config.loss_type, config.tau, config.reduction, config.sampling) == ("CDB-CE", 1.5, "mean", "uniform")
    assert (config.num_epochs, config.batch_size, config.lr, config.momentum, config.weight_decay) == (
        90,
        512,
        0.2,
        0.9,
        2e-4,
    )
    assert (config.num_classes, config.image_size, config.test_resize, config.seed) == (1000, 224, 256, 0)
    assert config.path("model_dir") == HERE / "logs/ImageNet_LT/models/resnet10_uniform_cdbce"
    assert config.path("train_list") == HERE / "data/ImageNet_LT/ImageNet_LT_train.txt"
    assert "\ntau: 1.5 " in MAIN.read_text()


@pytest.mark.parametrize("folder", ["ImageNet_LT", "TinyImageNet_LT"])
def test_every_recipe_is_shipped(folder):
    assert not NAMES - {path.stem for path in SHIPPED if path.parent.name == folder}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_shipped_files_are_commented_and_survive_being_saved(file, tmp_path):
    config = read_config(file)
    assert all("#" in line for line in file.read_text().splitlines() if line)
    (tmp_path / "saved.yaml").write_text(config.dump())
    assert read_config(tmp_path / "saved.yaml") == config
    assert not any(str(ROOT) in str(value) for value in config.settings().values())


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    text = MAIN.read_text().replace(
        "train_list: data/ImageNet_LT/ImageNet_LT_train.txt", 'train_list: "{data_root}/lists/a.txt"'
    )
    (tmp_path / "x.yaml").write_text(text)
    config = read_config(tmp_path / "x.yaml")
    assert str(config.path("data_root")) == "/home/someone/datasets/imagenet"
    assert str(config.path("train_list")) == "/home/someone/datasets/imagenet/lists/a.txt"
    assert (
        read_config(tmp_path / "x.yaml", data_root="/else", seed=None).path("train_list").as_posix()
        == "/else/lists/a.txt"
    )


def test_a_flag_may_give_what_the_file_does_not_say(tmp_path):
    assert read_config(edited(tmp_path, "data_root", None), data_root="/somewhere").data_root == "/somewhere"


@pytest.mark.parametrize(("text", "value"), [("2e-4", 2e-4), ("0", 0.0), ("1.0e-3", 1e-3)])
def test_numbers_without_a_point_are_numbers(text, value, tmp_path):
    (tmp_path / "x.yaml").write_text(MAIN.read_text().replace("weight_decay: 2.0e-4", f"weight_decay: {text}"))
    assert read_config(tmp_path / "x.yaml").weight_decay == value


def edited(tmp_path, key: str, value: str | None):
    """The main file with another value of a key, or without the key."""
    lines = [line for line in MAIN.read_text().splitlines() if not line.startswith(f"{key}:")]
    file = tmp_path / "x.yaml"
    file.write_text("\n".join(lines + ([f"{key}: {value}"] if value is not None else [])))
    return file


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tau", "0", "tau must be a number above 0, dynamic or dynamic-released, not 0"),
        ("tau", "-1.5", "tau must be a number above 0, dynamic or dynamic-released, not -1.5"),
        ("tau", "dynamical", "not 'dynamical'"),
        ("tau", "true", "not True"),
        ("tau", ".nan", "not nan"),
        ("tau", ".inf", "not inf"),
        ("tau", "[1]", "not [1]"),
        ("tau", "", "not None"),
        ("num_epochs", "0", "num_epochs must be a whole number of at least 1, not 0"),
        ("num_epochs", "ninety", "not 'ninety'"),
        ("batch_size", "51.2", "batch_size must be a whole number of at least 1, not 51.2"),
        ("batch_size", "yes", "not True"),
        ("lr", "0", "lr must be a number above 0, not 0"),
        ("momentum", "1", "momentum must be a number from 0 to below 1, not 1"),
        ("weight_decay", "-1", "weight_decay must be a number of at least 0, not -1"),
        ("seed", "4294967296", "seed must be a whole number from 0"),
        ("loss_type", "CDBCE", "loss_type must be CE, FL, EQL,"),
        ("loss_type", "LDAM-DRW", "not 'LDAM-DRW'"),
        ("reduction", "sum", "reduction must be mean or weighted_mean, not 'sum'"),
        ("sampling", "even", "sampling must be uniform, balanced,"),
        ("data_root", "3", "data_root must be the folder that holds the images, not 3"),
        ("model_dir", "''", "model_dir must be the folder"),
        ("first_stage", '"x\\0"', "first_stage must be the model_dir of a finished first stage, not 'x\\x00'"),
        ("num_classes", "1", "num_classes must be a whole number from 2 to 100000, not 1"),
        ("workers", "-1", "workers must be a whole number of at least 0"),
        ("data_root", None, "no data_root; add the line `data_root: `"),
        ("lr", None, "no lr; add the line `lr: ` and a number above 0"),
        ("tua", "1.5", "line 24: unknown key tua; did you mean tau?"),
        ("num_epoch", "1", "unknown key num_epoch; did you mean num_epochs?"),
        ("zzzz", "1", "unknown key zzzz; known are data_root, train_list"),
        ("1", "2", "unknown key 1"),
        ("stage", "crt", "stage crt needs first_stage"),
        ("first_stage", "./x", "first_stage ./x is for stage crt or lws"),
        ("sampling", "difficulty", "loss_type must be CE, not CDB-CE"),
        ("loss_type", "CE", "tau 1.5 does nothing with loss_type CE"),
        ("gamma", "2", "gamma 2.0 does nothing with loss_type CDB-CE"),
        ("beta", "0.9", "beta 0.9 does nothing with loss_type CDB-CE"),
        ("beta", "1", "beta must be a number above 0 and below 1, not 1"),
        ("eql_lambda", "0.1", "eql_lambda 0.1 does nothing"),
        ("eql_gamma", "1.5", "eql_gamma must be a number from 0 to 1, not 1.5"),
        ("difficulty", "steady", "difficulty must be paper or smoothed, not 'steady'"),
        ("test_resize", "100", "test_resize 100 must be at least image_size 224"),
        ("precision", "fp16", "precision must be auto, fp32 or bf16"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(key, value, message, tmp_path, failing):
    error = failing(main, "--cfg", edited(tmp_path, key, value))
    assert f"{tmp_path}/x.yaml" in error and message in error


def test_a_second_stage_does_not_replace_its_first(tmp_path, failing):
    first = tmp_path / "first"
    first.mkdir()
    (tmp_path / "link").symlink_to(first)
    file = edited(tmp_path, "first_stage", f"{first}\nstage: crt")
    for folder in (first, tmp_path / "x/../first/", tmp_path / "link"):
        error = failing(main, "--cfg", file, "--model_dir", folder, "--overwrite")
        assert f"{file}: first_stage and model_dir are both {first}" in error
    assert read_config(file, model_dir=str(tmp_path / "second")).stage == "crt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"tau: 1\ntau: 2\n", "line 2: tau stands in line 1 already"),
        (b"", "holds no settings"),
        (b"- a\n", "holds no settings"),
        (b"tau: [1\n", "is not YAML: "),
        (b"\xff\xfe", "is not YAML: "),
        (b"a: !!python/object/apply:os.system [ls]\n", "is not YAML: "),
        (b"? [a]\n: 1\n", "is not YAML: "),
        (b"<<: {tau: 1}\n", "unknown key <<"),
        (b"a: &a [*a]\n", "unknown key a"),
    ],
)
def test_a_file_that_is_no_configuration(content, message, tmp_path, failing):
    (tmp_path / "x.yaml").write_bytes(content)
    error = failing(main, "--cfg", tmp_path / "x.yaml")
    assert f"{tmp_path}/x.yaml" in error and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--cfg FILE is needed, or --test or --predict with --model_dir DIR"),
        (["--test"], "--cfg FILE is needed"),
        (["--cfg", "none.yaml"], "none.yaml cannot be read"),
        (["--test", "--model_dir", "/none"], "/none/config.yaml not found: --model_dir must be the folder of a run"),
        (["--cfg", MAIN, "--tau_norm"], "--tau_norm, --ncm and --logit_adjustment belong to --test"),
        (["--cfg", MAIN, "--test", "--ncm", "--tau_norm"], "not allowed with"),
        (["--cfg", MAIN, "--test", "--resume"], "belong to training"),
        (["--cfg", MAIN, "--batch_size", "0"], "--batch_size: must be a whole number"),
        (["--cfg", MAIN, "--n_gpus", "0"], "--n_gpus must be at least 1, not 0"),
        (["--cfg", MAIN, "--workers", "-1"], "--workers: must be a whole number from 0"),
        (["--cfg", MAIN, "--seed", "x"], "--seed: must be a whole number"),
        (["--cfg", MAIN, "--max_epochs", "3"], "--max_epochs"),
        (["--cfg", ROOT], "cannot be read: it is not a file"),
    ],
)
def test_wrong_flags(arguments, message, failing):
    assert message in failing(main, *arguments)


def test_the_rate_is_stepped_after_each_epoch():
    schedule = cosine_schedule(4)
    expected = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]  # cosine at 0, 45, 90, 135 degrees
    assert [schedule((epoch + 0.99) / 4) for epoch in range(4)] == pytest.approx(expected)
    for epochs in (3, 7, 49, 90):
        factors = [
            cosine_schedule(epochs)((epoch + batch / 226) / epochs) for epoch in range(epochs) for batch in range(226)
        ]
        assert len(set(factors)) == epochs and all(
            len(set(factors[start : start + 226])) == 1 for start in range(0, len(factors), 226)
        )


def test_a_saved_file_is_plain_yaml():
    saved = yaml.safe_load(read_config(MAIN, n_gpus=2, device="cuda").dump())
    assert saved["tau"] == 1.5 and not {"n_gpus", "device"} & saved.keys()  # another machine may have none


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", "9" * 400, "lr must be a number above 0"),
        ("num_classes", 2**32 - 1, "num_classes must be a whole number from 2 to 100000"),
        ("image_size", 10**6, "image_size must be a whole number from 1 to 1024"),
        ("test_resize", 10**9, "test_resize must be"),
        ("gamma", "[[1]]", "gamma must be"),
        ("seed", '!!int ""', "is not YAML"),
        ("tau", "!!bool maybe", "is not YAML"),
    ],
)
def test_values_of_absurd_size(key, value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_config(edited(tmp_path, key, value))


def test_a_file_of_absurd_size_or_none(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"a: 1\n" * 100_000)
    with pytest.raises(ValueError, match="x.yaml.* has 500,000 bytes"):
        read_config(tmp_path / "x.yaml")
    with pytest.raises(OSError, match="/dev/zero cannot be read"):
        read_config(Path("/dev/zero"))


def test_a_home_that_is_none():
    with pytest.raises(ValueError, match="~nosuchuser/x: there is no such home directory"):
        read_config(MAIN, data_root="~nosuchuser/x").path("data_root")


@pytest.mark.parametrize(
    ("loss_type", "line", "read", "expected"),
    [
        ("EQL", "eql_gamma: 0.5", lambda loss: loss.gamma, 0.5),
        ("EQL", "eql_lambda: 0.3", lambda loss: loss.rare.tolist(), [False, True, True]),  # shares 8, 2 and 1 of 11
        (
            "CB_Softmax",
            "beta: 0.5",
            lambda loss: (loss.weight[2] / loss.weight[1]).item(),
            0.75 / 0.5,
        ),  # (1 - 1/4) / (1 - 1/2)
        ("CDB-CE", "difficulty: smoothed", lambda loss: loss.difficulty, "smoothed"),
        ("CDB-BS", "tau: 2", lambda loss: loss.log_counts.exp().tolist(), [8, 2, 1]),
    ],
)
def test_settings_of_a_loss_reach_it(loss_type, line, read, expected, tmp_path):
    lines = [
        text
        for text in MAIN.read_text().splitlines()
        if text.split(":")[0] not in ("tau", "reduction", "loss_type", "num_classes")
    ]
    (tmp_path / "x.yaml").write_text("\n".join([*lines, "num_classes: 3", f"loss_type: {loss_type}", line]))
    assert read(build_criterion(read_config(tmp_path / "x.yaml"), [8, 2, 1])) == pytest.approx(expected)
