"""What the three experiments share. Nothing here knows a data set, and a module imports only from those above it:

files.py              write a file whole, lock it, identify it, replace a part of a page (no torch)
signals.py            stop at SIGINT, SIGTERM and SIGHUP; wait for something without missing them (no torch)
folders.py            the files in a user's folder, without hidden ones (no torch)
cli.py                the argument parser, argument types, exit codes (no torch)
records.py            what travels: a checkpoint's description, a row of the log, a test's figures (no torch)
seeds.py              seeds for the parts of a run (no torch)
pictures.py           figures that need no display (no torch)
devices.py            Runtime: device, rank, precision, DataParallel and DistributedDataParallel
compiling.py          torch.compile, for whole training batches
distributed.py        start a Runtime; how the processes of a job find each other
checkpoints.py        save and safely load checkpoints and weights
tensorboard.py        the log for TensorBoard
heads.py              the cosine classifier
losses.py             the losses that CDB-CE is compared with, and the table of all losses
loss_flags.py         the flags of all losses, and the loss that they describe
metrics.py            confusion counts, many / medium / few shot, macro F1
hits.py               which images of a test set are right, and McNemar's test of two networks
distillation.py       learning from the probabilities of trained networks
confusion_picture.py  the hardest classes, and what they are predicted as
predictions.py        a table of predictions
posthoc.py            classifiers on a trained network's outputs: logit adjustment
calibration.py        how far a classifier's confidence is from its accuracy
tables.py             Markdown and CSV tables
logs.py               a run's log: written, read, which epoch is kept
run.py                the folder of a run: its log, its last and best checkpoint, resuming
batch_losses.py       an epoch's losses, read from the device and checked
training.py           the training loop: epochs, validation, class weights
trained.py            load_run: the network of a run of any experiment
plot.py               a run's log as pictures; a script
compare.py            settings over several seeds: differences and interval; a script
"""

from importlib.util import find_spec
from typing import Any

MISSING = [name for name in ("numpy", "tqdm") if find_spec(name) is None]
if MISSING:
    raise ModuleNotFoundError(f"longtail needs {' and '.join(MISSING)}: pip install 'cdb-loss[training]'")

__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    """Import load_run when it is asked for: the modules above that need no torch must stay so."""
    if name == "load_run":
        from longtail.trained import load_run

        return load_run
    raise AttributeError(f"module 'longtail' has no attribute {name!r}")
