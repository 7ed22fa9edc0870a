"""The YAML files: what ours say, and what is said of a wrong one."""

import math
import re

import pytest
import yaml

from conftest import ROOT
from imagenet_config import HERE, read_config
from imagenet_training import build_criterion, cosine_schedule
from main import main

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


def edited(tmp_path, key: str, value: str | None):
    """The main file with another value of a key, or without the key."""
    lines = [line for line in MAIN.read_text().splitlines() if not line.startswith(f"{key}:")]
    file = tmp_path / "x.yaml"
    file.write_text("\n".join(lines + ([f"{key}: {value}"] if value is not None else [])))
    return file


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("tau", value) for value in ("0", "-1.5", "dynamical", "true", ".nan", ".inf", "")),
        *(("num_epochs", value) for value in ("0", "ninety", "", "1:30", "0x10", "[3]")),
        *(("batch_size", value) for value in ("51.2", "yes")),
        *(("lr", value) for value in ("0", "1:30", "nan", "inf", "9" * 400)),
        ("momentum", "1"),
        ("weight_decay", "-1"),
        ("seed", "4294967296"),
        ("loss_type", "CDBCE"),
        ("loss_type", "LDAM-DRW"),
        ("reduction", "sum"),
        ("sampling", "even"),
        ("optimizer", "adam"),
        ("model_dir", "''"),
        ("num_classes", "1"),
        ("num_classes", str(2**32 - 1)),
        ("image_size", "1000000"),
        ("workers", "-1"),
        ("beta", "1"),
        ("eql_gamma", "1.5"),
        ("gamma", "[[1]]"),
        ("difficulty", "steady"),
        ("precision", "fp16"),
        ("backbone", "resnet20"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(key, value, tmp_path, failing):
    file = edited(tmp_path, key, value)
    error = failing(main, "--cfg", file)
    assert f"{file}, line {len(file.read_text().splitlines())}: {key} " in error
    assert f"not {yaml.load(value, Loader=yaml.BaseLoader) or ''!r}" in error


def test_a_choice_is_named_with_its_words(tmp_path, failing):
    assert re.search(
        "reduction .*mean or weighted_mean.*'sum'", failing(main, "--cfg", edited(tmp_path, "reduction", "sum"))
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data_root", None, "`data_root: `"),
        ("lr", None, "`lr: ` .*above 0"),
        ("tua", "1.5", "line 24: .*tua; .* tau"),
        ("num_epoch", "1", "num_epoch; .* num_epochs"),
        ("zzzz", "1", "unknown key zzzz"),
        ("1", "2", "unknown key 1"),
        ("stage", "crt", "stage crt .*first_stage"),
        ("first_stage", "./x", "first_stage ./x .*crt"),
        ("sampling", "difficulty", "loss_type .*CE, not CDB-CE"),
        ("test_resize", "100", "test_resize 100 .*image_size 224"),
        ("warmup_epochs", "90", "warmup_epochs 90 .*num_epochs 90"),
    ],
)
def test_keys_that_are_missing_unknown_or_contradict_each_other(key, value, message, tmp_path, failing):
    error = failing(main, "--cfg", edited(tmp_path, key, value))
    assert f"{tmp_path}/x.yaml" in error and re.search(message, error)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("num_epochs", "064", 64),  # YAML 1.1 reads 52
        ("lr", "0010", 10.0),
        ("seed", "00", 0),
        ("weight_decay", "2e-4", 2e-4),
        ("data_root", "3", "3"),
        ("model_dir", "no", "no"),  # YAML 1.1 reads False
        ("device", "", None),
        ("workers", "null", None),
        ("pretrained", "none", None),
    ],
)
def test_values_are_read_as_they_are_written(key, text, value, tmp_path):
    config = read_config(edited(tmp_path, key, text))
    assert getattr(config, key) == value
    (tmp_path / "saved.yaml").write_text(config.dump())
    assert getattr(read_config(tmp_path / "saved.yaml"), key) == value


@pytest.mark.parametrize(
    ("loss_type", "line", "rest"),
    [
        ("CE", "tau: 1.5", {"tau": "dynamic"}),
        ("EQL", "gamma: 2", {"gamma": 1.0}),
        ("CDB-BS", "beta: 0.9", {"tau": 1.5}),
    ],
)
def test_a_key_that_the_loss_does_not_read_is_left_out_and_reported(loss_type, line, rest, tmp_path):
    """As when only loss_type is changed in a file. The main file has a tau of 1.5."""
    file = edited(tmp_path, "loss_type", f"{loss_type}\n{line}" if "tau" not in line else loss_type)
    said: list[str] = []
    config = read_config(file, said.append)
    assert {key: getattr(config, key) for key in rest} == rest
    key, value = line.split(": ")
    number = (
        file.read_text().splitlines().index(next(row for row in file.read_text().splitlines() if row.startswith(key)))
    )
    dropped = [text for text in said if f"{file}, line {number + 1}: {key} {float(value)} does nothing" in text]
    assert len(dropped) == 1 and f"loss_type {loss_type}" in dropped[0]


def test_a_typed_setting_without_effect_is_refused():
    with pytest.raises(ValueError, match="tau 2.0 .*Balanced_Softmax"):
        read_config(MAIN, loss_type="Balanced_Softmax", tau="2")
    assert read_config(MAIN, loss_type="CDB-BS", tau="2").tau == 2


def test_a_second_stage_does_not_replace_its_first(tmp_path, failing):
    first = tmp_path / "first"
    first.mkdir()
    (tmp_path / "link").symlink_to(first)
    file = edited(tmp_path, "first_stage", f"{first}\nstage: crt")
    for folder in (first, tmp_path / "x/../first/", tmp_path / "link"):
        error = failing(main, "--cfg", file, "--model_dir", folder, "--overwrite")
        assert re.search(f"{file}: first_stage and model_dir .*{first}", error)
    assert read_config(file, model_dir=str(tmp_path / "second")).stage == "crt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"tau: 1\ntau: 2\n", "line 2: tau .*line 1"),
        (b"", "holds no settings"),
        (b"- a\n", "holds no settings"),
        (b"tau: [1\n", "is not YAML: "),
        (b"\xff\xfe", "is not YAML: "),
        (b"a: !!python/object/apply:os.system [ls]\n", "unknown key a"),
        (b"? [a]\n: 1\n", "is not YAML: "),
        (b"<<: {tau: 1}\n", "unknown key <<"),
        (b"a: &a [*a]\n", "is not YAML: "),
    ],
)
def test_a_file_that_is_no_configuration(content, message, tmp_path, failing):
    (tmp_path / "x.yaml").write_bytes(content)
    error = failing(main, "--cfg", tmp_path / "x.yaml")
    assert f"{tmp_path}/x.yaml" in error and re.search(message, error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--cfg FILE .*--test .*--predict .*--model_dir"),
        (["--test"], "--cfg FILE is needed"),
        (["--cfg", "none.yaml"], "none.yaml cannot be read"),
        (["--test", "--model_dir", "/none"], "/none/config.yaml .*--model_dir"),
        (["--cfg", MAIN, "--tau_norm"], "--tau_norm, .*--test"),
        (["--cfg", MAIN, "--test", "--ncm", "--tau_norm"], "not allowed with"),
        (["--cfg", MAIN, "--test", "--resume"], "belong to training"),
        (["--cfg", MAIN, "--batch_size", "0"], "--batch_size: .*'0'"),
        (["--cfg", MAIN, "--n_gpus", "0"], "--n_gpus .*not 0"),
        (["--cfg", MAIN, "--workers", "-1"], "--workers: .*'-1'"),
        (["--cfg", MAIN, "--seed", "x"], "--seed: .*'x'"),
        (["--cfg", MAIN, "--max_epochs", "3"], "--max_epochs"),
        (["--cfg", ROOT], f"{ROOT} cannot be read"),
    ],
)
def test_wrong_flags(arguments, message, failing):
    assert re.search(message, failing(main, *arguments))


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


def test_a_home_that_is_none():
    with pytest.raises(ValueError, match="~nosuchuser/x"):
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
