"""Publish the trained weights of finished runs in pretrained_weights/; `reproduce.py --publish` calls it."""

import gzip
import hashlib

from cifar_dataset import DIGITS_HELD_OUT, HELD_OUT_PER_CLASS, VALIDATED_ON_TEST
from longtail.checkpoints import load_checkpoint
from longtail.files import write_atomically
from longtail.logs import load_log
from longtail.metrics import SHOT_SIZES, SHOTS, shot_sizes
from longtail.tables import markdown
from reproduction import plan
from reproduction.jobs import WEIGHTS, Job, finished
from reproduction.pages import show

INTRODUCTION = """# Trained networks

Each file holds the network of one run, as it was in the epoch with the best validation accuracy, with its class names,
its normalisation and its settings. In the clone, after `pip install -e ".[training]"`:

    import longtail
    model = longtail.load_run("pretrained_weights/NAME.pth")       # in evaluation mode
    scores = model(model.transform(picture)[None])                 # a PIL picture, an array, a tensor or a path
    print(model.class_names[scores.argmax()])

`torch.hub.load("path/to/the/clone", "trained", source="local", weights="pretrained_weights/NAME.pth")` returns the same
network. Run the other commands of the cards in `CIFAR-LT/`. Their figures may differ in the last digit between bf16 and
fp32, and between processors.

EGTEA looks here for `resnext-101-kinetics.pth`, which is not part of this repository. The cards are written by
`CIFAR-LT/reproduce.py --table`, from the logs.
"""
NETWORKS = {
    "cifar100": "ResNet-32 on CIFAR-100-LT",
    "cifar10": "ResNet-32 on CIFAR-10-LT",
    "digits": "ResNet-32 on the digits",
}
USES = {
    "paper": "Use it to check the paper's recipe without training, and as the network with CDB-CE in a comparison.",
    "fast": "Use it to try what comes after training, where the result of the short recipe is enough.",
    "strong": "Use it as a baseline with strong augmentation, or as a teacher (`cifar_train.py --teacher`).",
}


def check_publishable(job: Job) -> None:
    """Raise ValueError unless the job's folder in --runs holds the very run that results/ tells of."""
    if job.state != "finished":
        raise ValueError(f"{job.name} is not finished ({job.state}): run it first")
    if not job.log.exists():
        raise ValueError(f"{job.folder} holds no run: --runs must be where it was trained")
    if job.log.read_bytes() != gzip.decompress(job.kept_log.read_bytes()):
        raise ValueError(f"{job.folder} holds another run than {job.result}: their logs differ")
    best, kept = load_log(job.log).best_epoch, load_checkpoint(job.best).get("epoch")
    if kept != best:
        raise ValueError(f"{job.best} is of epoch {kept}, the log's best is {best}")


def train_command(job: Job) -> str:
    """Return the command that trains the job's network."""
    command = f"python cifar_train.py {' '.join(job.entry.flags)} --seed {job.seed}"
    if job.entry.teachers:
        command += f" --teacher {' '.join(job.entry.teachers)}"
    if job.entry.refit:
        command += f" --refit {job.entry.refit}"
    return command


def validation_images(job: Job, num_classes: int) -> str:
    """Return which images chose the epoch."""
    if job.entry.protocol in VALIDATED_ON_TEST:
        return "the test images, so that the accuracy below is too high for a fair comparison"
    if job.entry.protocol == "all" or job.entry.refit:
        return "none, the last epoch is kept"
    each = DIGITS_HELD_OUT if job.entry.dataset == "digits" else HELD_OUT_PER_CLASS
    return f"{each * num_classes:,} other images, the last {each} of each class, taken out before the cut"


def accuracy_table(job: Job) -> str:
    """Return the test accuracy by group of classes: of this network, of its row's seeds, and the paper's."""
    sizes = shot_sizes([entry["training_images"] for entry in job.figures["classes"]])
    seeds = finished(job.entry)
    rows = []
    for group in SHOTS:
        row = {
            "classes": group,
            "number": str(sizes[group]),
            "this network": show([job.figures["shots"][group]]),
        }
        if len(seeds) > 1:
            row[f"mean of {len(seeds)} seeds"] = show([seed.figures["shots"][group] for seed in seeds])
        if job.entry.published:
            row["paper"] = f"{job.entry.published:.2f}" if group == "all" else "-"
        rows.append(row)
    return markdown(rows, left=("classes",))


def limits(job: Job) -> str:
    """Return what the network cannot do."""
    classes = job.figures["classes"]
    text = f"It knows {len(classes)} classes in images of 32 x 32 pixels, and no others."
    never = sum(entry["correct"] == 0 for entry in classes)
    if never:
        text += f"\nOf {never} of them it classifies every test image wrongly."
    return text


def card(job: Job) -> str:
    """Return what the page says of a published network."""
    path = WEIGHTS / f"{job.name}.pth"
    log = load_log(job.kept_log)
    counts = [int(count) for count in log.class_counts]
    sizes = f"from {max(counts)} of the largest class to {min(counts)} of the smallest"
    network = f"{NETWORKS[job.entry.dataset]} at imbalance {job.entry.imbalance}, with {log.label}"
    return (
        f"## {path.name}\n\n"
        f"{network}: epoch {log.best_epoch} of {log.epochs} of the `{job.entry.recipe}` recipe.\n"
        f"{USES.get(job.entry.recipe, '')}\n{limits(job)}\n\n"
        f"Accuracy in % on {job.figures['images']:,} test images ({SHOT_SIZES}):\n\n"
        f"{accuracy_table(job)}\n"
        f"- trained on {sum(counts):,} images, {sizes}\n"
        f"- validated on {validation_images(job, len(counts))}; accuracy {show([log.best_accuracy])} %\n"
        f'- load: `longtail.load_run("pretrained_weights/{path.name}")`\n'
        f"- test: `python cifar_test.py --saved_model_path ../pretrained_weights/{path.name}`\n"
        f"- train: `{train_command(job)}`\n"
        f"- log: [CIFAR-LT/results/{job.name}](../CIFAR-LT/results/{job.name})\n"
        f"- sha256: `{hashlib.sha256(path.read_bytes()).hexdigest()}`\n"
    )


def write_cards() -> None:
    """Write the page of the published networks, from the files that are there and the logs of their runs."""
    possible = [Job(entry, seed, WEIGHTS) for entry in plan.all_entries() for seed in entry.seed_range]
    published = [job for job in possible if (WEIGHTS / f"{job.name}.pth").exists()]
    write_atomically(WEIGHTS / "README.md", "\n".join([INTRODUCTION, *map(card, published)]).encode())


def publish(jobs: list[Job]) -> None:
    """Copy the best checkpoints of finished jobs to pretrained_weights/, and write its page."""
    for job in jobs:
        check_publishable(job)
    for job in jobs:
        write_atomically(WEIGHTS / f"{job.name}.pth", job.best.read_bytes())
        print(WEIGHTS / f"{job.name}.pth")
    write_cards()
