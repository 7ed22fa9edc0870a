"""Train several losses on the same images with several seeds, test them, and compare them with the first one."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagenet_config import LOSS_KEYS, Config
from imagenet_run import RESULTS
from longtail.cli import several_processes
from longtail.compare import Group, compare_runs
from longtail.losses import TAU, find_loss
from longtail.tables import loss_label

ADJUSTABLE = "CE"  # logit adjustment after training is for a network that knows nothing of the class sizes


def compare_losses(
    args: Namespace,
    resolve: Callable[..., Config],
    train: Callable[[Namespace, Config], None],
    test: Callable[[Config, str], None],
) -> None:
    """Train and test what is missing in MODEL_DIR/LOSS_seedN, then write the table and the picture to MODEL_DIR."""
    if several_processes():
        raise ValueError("--compare runs in one process; --n_gpus gives it several GPUs")
    losses = list(dict.fromkeys(args.compare))
    if len(losses) < 2:
        raise ValueError(f"--compare {' '.join(args.compare)}: name two losses or more; the first is the baseline")
    folder = comparison_folder(args, resolve)
    configs = configurations(args, losses, folder, resolve)
    args.resume = True
    for (loss, _), config in sorted(configs.items(), key=lambda item: item[0][1]):  # seed by seed
        print(f"\n{config.path('model_dir').name}:", flush=True)
        train(args, config)
        adjusted = config.path("model_dir") / RESULTS["logit_adjustment"]
        if loss == ADJUSTABLE and not adjusted.exists():
            test(config, "logit_adjustment")
    print("\n" + compare_runs(groups(losses, configs), folder))
    print(folder / "compare.png")


def comparison_folder(args: Namespace, resolve: Callable[..., Config]) -> Path:
    """Return the folder of the runs' folders: --model_dir, or the YAML's."""
    unread = dict.fromkeys(LOSS_KEYS)
    return resolve(args, loss_type=args.compare[0], say=lambda line: None, **unread).path("model_dir")


def configurations(
    args: Namespace, losses: list[str], folder: Path, resolve: Callable[..., Config]
) -> dict[tuple[str, int], Config]:
    """Return the configuration of each loss and seed.

    A key of the file that a loss does not read is left out for it, and told once. So is a flag, unless no loss reads
    it, which is an error. The file's tau belongs to the file's loss; another one that reads tau has the default.
    """
    chosen_for = resolve(args, say=lambda line: None, **dict.fromkeys(LOSS_KEYS)).loss_type
    told: set[str] = set()

    def say(line: str) -> None:
        if line not in told:
            print(line)
        told.add(line)

    configs = {}
    for loss in losses:
        others: dict[str, Any] = dict.fromkeys(keys_of(losses) - keys_of([loss]))
        if loss != chosen_for and args.tau is None and "tau" in keys_of([loss]):
            others["tau"] = TAU.default
            say(f"{loss} has tau {TAU.default}: the tau of {args.cfg} is for {chosen_for}; --tau sets it for all")
        for seed in range(args.seeds or 1):
            run = str(folder / f"{loss}_seed{seed}")
            configs[loss, seed] = resolve(args, loss_type=loss, seed=seed, model_dir=run, say=say, **others)
    return configs


def keys_of(losses: list[str]) -> set[str]:
    """Return the settings that one of the losses reads."""
    return {setting.name for loss in losses for setting in find_loss(loss).settings}


def groups(losses: list[str], configs: dict[tuple[str, int], Config]) -> list[Group]:
    """Return the runs of each loss, and those of cross-entropy again with logit adjustment after training."""
    result = []
    for loss in losses:
        runs = [config.path("model_dir") for (name, _), config in configs.items() if name == loss]
        label = loss_label(configs[loss, 0].settings())
        result.append(Group(label, runs))
        if loss == ADJUSTABLE:
            result.append(Group(f"{label}, logit adjustment", runs, RESULTS["logit_adjustment"]))
    return result
