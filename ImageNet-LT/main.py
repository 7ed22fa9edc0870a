"""Train, test and use ResNet-10, or a larger backbone, on ImageNet-LT or any three lists of images, as a YAML file
says.

one GPU, or the CPU of a machine without:
    python main.py --cfg ./config/ImageNet_LT/feat_uniform_with_CDBloss.yaml
    python main.py --test --model_dir ./logs/ImageNet_LT/models/resnet10_uniform_cdbce
all of a machine's GPUs, one process each:
    torchrun --standalone --nproc-per-node 4 main.py --cfg ./config/ImageNet_LT/feat_uniform_with_CDBloss.yaml
your own images, from a folder of class folders; --predict takes an image, a folder or a list:
    python data/make_lists.py ~/photos --out ~/photos-lt --backbone resnet50 --pretrained=imagenet
    python main.py --cfg ~/photos-lt/config.yaml
    python main.py --test --model_dir ~/photos-lt/cdb
    python main.py --predict ~/new-photos --model_dir ~/photos-lt/cdb --out ~/predictions.csv
which loss, on these images: each is trained and tested with three seeds, then compared with the first one:
    python main.py --cfg ~/photos-lt/config.yaml --compare CE Balanced_Softmax CDB-CE CDB-BS --seeds 3
second stages (Kang et al., ICLR 2020) on a finished first one; --tau_norm, --ncm and --logit_adjustment need no
training:
    python main.py --cfg ./config/ImageNet_LT/cls_crt.yaml
    python main.py --cfg ./config/ImageNet_LT/cls_lws.yaml
    python main.py --test --model_dir ./logs/ImageNet_LT/models/resnet10_uniform --tau_norm

A run's folder, model_dir, holds final_model_checkpoint.pth, the epoch with the best validation accuracy (the mean over
classes, where validation is not balanced); last_NAME.pth (for --resume); NAME.csv, the log, and NAME.json; config.yaml;
test*.json; after --test also classes*.csv and confusion*.png.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # longtail/ is beside this folder

from backbones import check_precision, trains_in_bf16_on_cpu
from imagenet_compare import compare_losses
from imagenet_config import PUBLISHED, Config, read_config
from imagenet_predict import TOP, write_predictions
from imagenet_run import BEST, CLASS_TABLES, CONFIG, PICTURES, RESULTS
from imagenet_test import evaluate
from imagenet_training import prepare
from longtail.cli import (
    DEVICE_HELP,
    RESUME_HINT,
    ArgumentParser,
    add_run_arguments,
    exit_code,
    file_path,
    positive_int,
    run_mode,
    seed_number,
)
from longtail.devices import check_gpus
from longtail.distributed import start_runtime
from longtail.run import Run
from longtail.training import fit, start_or_resume

OVERRIDES = {
    "loss_type": "the loss",
    "tau": "of the CDB losses: how strongly difficulty weighs",
    "difficulty": "of the CDB losses: paper or smoothed",
    "lr": "peak learning rate",
    "num_epochs": "epochs",
    "backbone": "the network",
    "pretrained": "its weights: imagenet, a file, or none",
}
METHODS = ("tau_norm", "ncm", "logit_adjustment")  # of --test, instead of the trained classifier


def parse_arguments(argv: list[str] | None) -> Namespace:
    """Return the flags. A flag overrides the YAML's value."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--cfg", type=file_path, metavar="FILE", help="the run's settings; config/ has examples")
    parser.add_argument(
        "--model_dir", "--save_model", type=file_path, metavar="DIR", help="the run's folder; default: the YAML's"
    )
    add_actions(parser)
    settings = parser.add_argument_group("settings, in place of the YAML's")
    for key, meaning in OVERRIDES.items():
        settings.add_argument(f"--{key}", help=meaning)
    settings.add_argument("--data_root", type=file_path, metavar="DIR", help="the folder that holds the images")
    settings.add_argument("--batch_size", type=positive_int, help="the whole batch, however many GPUs share it")
    settings.add_argument("--seed", type=seed_number, help="default: the YAML's, else 0")
    settings.add_argument("--n_gpus", type=int, help="GPUs for DataParallel; default: the YAML's, else 1")
    settings.add_argument("--device", help=f"{DEVICE_HELP}; default: the YAML's, else the GPU if there is one")
    settings.add_argument(
        "--workers",
        type=seed_number,
        help="processes that read images (0: none); default: the YAML's, else one per core",
    )
    add_run_arguments(parser, "its folder")
    args = parser.parse_args(argv)
    problem = problem_with(args)
    if problem:
        parser.error(problem)
    return args


def add_actions(parser: ArgumentParser) -> None:
    """Add the flags of what is done instead of training one run."""
    actions = parser.add_argument_group("instead of training")
    actions.add_argument(
        "--test", action="store_true", help="test the model in --model_dir; its own config.yaml is there, else --cfg"
    )
    kind = actions.add_mutually_exclusive_group()
    kind.add_argument(
        "--tau_norm", action="store_true", help="with --test: normalised class weights, exponent chosen on validation"
    )
    kind.add_argument("--ncm", action="store_true", help="with --test: nearest class mean of the training features")
    kind.add_argument(
        "--logit_adjustment", action="store_true", help="with --test: scores minus a multiple of the log prior"
    )
    actions.add_argument(
        "--predict",
        type=file_path,
        metavar="PATH",
        help="predict the classes of an image, a folder or a list of images",
    )
    actions.add_argument(
        "--out", type=file_path, metavar="FILE", help="with --predict: write the table there (CSV); default: print it"
    )
    actions.add_argument(
        "--top", type=positive_int, metavar="K", help="with --predict: the K most probable classes; default: 5"
    )
    actions.add_argument(
        "--compare",
        nargs="+",
        metavar="LOSS",
        help="train and test several losses, as far as that is not done yet, and compare them with the first one",
    )
    actions.add_argument("--seeds", type=positive_int, metavar="N", help="with --compare: seeds 0 to N - 1; default: 1")


def problem_with(args: Namespace) -> str:
    """Return what is wrong with the flags together, or nothing."""
    uses = args.test or args.predict
    overridden = [f"--{key}" for key in OVERRIDES if getattr(args, key) is not None]
    if not args.cfg and not (uses and args.model_dir):
        return "--cfg FILE is needed, or --test or --predict with --model_dir DIR"
    if sum(map(bool, (args.test, args.predict, args.compare))) > 1:
        return "--test, --predict and --compare are three commands"
    if (args.out or args.top) and not args.predict:
        return "--out and --top belong to --predict"
    if any(getattr(args, method) for method in METHODS) and not args.test:
        return "--tau_norm, --ncm and --logit_adjustment belong to --test"
    if (uses or args.compare) and (args.resume or args.overwrite or args.tensorboard):
        return "--resume, --overwrite and --tensorboard belong to training a single run"
    if args.seeds and not args.compare:
        return "--seeds belongs to --compare"
    if args.compare and (args.loss_type or args.seed is not None):
        return "--compare names the losses, and --seeds the seeds: leave out --loss_type and --seed"
    if overridden and uses:
        return f"{overridden[0]} belongs to training"
    if overridden and not args.compare and not args.model_dir:
        return f"{overridden[0]} makes another run: name its folder with --model_dir"
    return ""


def resolve(args: Namespace, **more: Any) -> Config:
    """Return the configuration with the flags in it, and `more`.

    A relative path on the command line starts at the working directory.
    """
    file = args.cfg or args.model_dir / CONFIG
    if not args.cfg and not file.is_file():
        raise FileNotFoundError(
            f"{file} not found: --model_dir must be the folder of a run; for a checkpoint without, name its --cfg too"
        )
    if args.n_gpus is not None:
        check_gpus(args.n_gpus, found=0)
    keys = (*OVERRIDES, "model_dir", "data_root", "batch_size", "seed", "n_gpus", "device", "workers")
    overrides = {key: getattr(args, key) for key in keys} | more
    for key in ("model_dir", "data_root"):
        if overrides[key]:
            overrides[key] = str(Path(overrides[key]).resolve())
    if overrides["pretrained"] not in (None, PUBLISHED, "none"):
        overrides["pretrained"] = str(file_path(overrides["pretrained"]).resolve())
    return read_config(file, **overrides)


def train(args: Namespace, config: Config) -> None:
    """Train, or continue, the whole run, then test its best epoch."""
    bf16_on_cpu = trains_in_bf16_on_cpu(config.image_size)
    with start_runtime(config.n_gpus, config.precision, config.device, bf16_on_cpu) as runtime:
        check_precision(config.image_size, runtime)
        folder = config.path("model_dir")
        runtime.check_settings({**config.settings(), "resume": args.resume, "overwrite": args.overwrite})
        run = open_run(config, args.tensorboard)
        if runtime.is_main:
            check_users_config(folder, run)
        resuming = runtime.broadcast(args.resume and run.last.exists())
        training, description = prepare(config, resuming, runtime)
        start_or_resume(training, run, description, run_mode(args), runtime)
        unfinished = training.first_epoch <= training.epochs
        fit(training, run, description, runtime)
        if runtime.broadcast(unfinished or not (folder / RESULTS["classifier"]).exists()):
            evaluate(config, folder, "classifier", runtime)


def open_run(config: Config, tensorboard: bool) -> Run:
    """Return the run in the configuration's model_dir. Raise ValueError for a name that one of its results has."""
    folder = config.path("model_dir")
    if f"{folder.name}.json" in RESULTS.values():
        raise ValueError(
            f"model_dir {folder}: {folder.name}.json is the name of a result, not of a run; choose another --model_dir"
        )
    results = [RESULTS[method] for method in METHODS]
    return Run(
        folder,
        folder.name,
        BEST,
        tensorboard,
        results=[*results, *PICTURES.values(), *CLASS_TABLES.values()],
        companions={CONFIG: config.dump().encode()},
    )


def check_users_config(folder: Path, run: Run) -> None:
    """Raise ValueError if a user's own file would be replaced by the run's settings."""
    if (folder / CONFIG).exists() and not any(path.exists() for path in run.files):
        raise ValueError(
            f"{folder / CONFIG} would be replaced by this run's settings: choose another --model_dir, or move it away"
        )


def test(config: Config, method: str) -> None:
    """Test the best network of a run by a method of RESULTS."""
    with start_runtime(config.n_gpus, config.precision, config.device) as runtime:
        evaluate(config, config.path("model_dir"), method, runtime, draw=True)


def run(args: Namespace) -> int | None:
    """Train, test a trained model, predict with it, or compare losses. Return an exit code, or None for 0."""
    if args.compare:
        return compare_losses(args, resolve, train, test)
    config = resolve(args)
    if args.predict:
        return write_predictions(config, args.predict, args.data_root, args.out, args.top or TOP)
    if args.test:
        return test(config, next((method for method in METHODS if getattr(args, method)), "classifier"))
    return train(args, config)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    hint = RESUME_HINT
    if args.predict:
        hint = "; no prediction was written"
    elif args.compare:
        hint = "; the same command continues"
    elif args.test:
        hint = ""
    return exit_code(lambda: run(args), hint)


if __name__ == "__main__":
    sys.exit(main())
