"""Add a loss as CONTRIBUTING says, and use it everywhere: flags, a training on the digits, tables, the YAML.

python tests/new_loss.py FOLDER; test_losses.py runs it. The folder holds x.yaml, which asks for the loss.
"""

import contextlib
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "CIFAR-LT"), str(ROOT / "ImageNet-LT"), str(ROOT)]

from longtail import losses  # noqa: E402


class TemperedLoss(losses.ClassLoss):
    """Cross-entropy of the logits times `heat`."""

    def __init__(self, class_counts, heat=1.0, **options):
        super().__init__(class_counts, **options)
        self.heat = heat

    def elementwise(self, logits, target):
        return self.cross_entropy(logits * self.heat, target)


HEAT = losses.Setting("heat", 1.0, "factor of the logits", low=0, include_low=False)
losses.LOSSES += (losses.LossType("Tempered", TemperedLoss, (HEAT,)),)

# The scripts read the table when they are imported.
import cifar_train  # noqa: E402
import imagenet_config  # noqa: E402
from longtail.logs import load_log  # noqa: E402


def run(*flags: str) -> tuple[int, str]:
    """Return the exit code of cifar_train.py, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            code = cifar_train.main([*flags])
        except SystemExit as end:
            code = end.code
    return code, " ".join((out.getvalue() + error.getvalue()).split())


folder = Path(sys.argv[1])
chosen = ["--loss_type", "Tempered", "--heat", "2"]
training = ["--dataset", "digits", "--max_epochs", "1", "--save_model", str(folder)]
assert "Tempered: factor of the logits; default: 1.0" in run("--help")[1]
assert run(*training, "--loss_type", "CE", "--heat", "2")[0] == 2
assert "--heat: must be a number above 0, not '0'" in run(*training, "--loss_type", "Tempered", "--heat", "0")[1]
assert run(*training, *chosen)[0] == 0
assert load_log(folder).label == "Tempered, heat 2"
criterion = cifar_train.build_loss(cifar_train.parse_arguments(chosen), [3, 1], None)
assert isinstance(criterion, TemperedLoss) and criterion.heat == 2
config = imagenet_config.read_config(folder / "x.yaml")
assert (config.loss_type, config.heat) == ("Tempered", 3)
print("works everywhere")
