"""The loop: schedule, weights of the next epoch, averaging, resuming, losses that are not finite."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import cifar_train
from cdb_loss import CDBLoss
from cifar_dataset import ImageSet
from longtail.checkpoints import load_checkpoint
from longtail.devices import Runtime
from longtail.logs import read_log
from longtail.losses import LOSSES, build_rival
from longtail.records import Description
from longtail.run import Run
from longtail.seeds import epoch_seed
from longtail.training import Training, backward, fit, run_epoch, start_or_resume, train_epoch, validate
from muon import Muon

CPU = Runtime(torch.device("cpu"))


INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(40) % 4


def build_criterion(loss_type: str, class_counts: list[int]) -> nn.Module:
    return CDBLoss(len(class_counts), tau=1.0) if loss_type.startswith("CDB") else build_rival(loss_type, class_counts)


def training(epochs=3, loss_type="CDB-CE", inputs=INPUTS, norm=None, **settings) -> Training:
    torch.manual_seed(0)
    model = nn.Linear(3, 4) if norm is None else nn.Sequential(norm, nn.Linear(3, 4))
    groups = [{"params": model.parameters(), "initial_lr": 0.5}]
    return Training(
        model=model,
        parallel_model=model,
        criterion=build_criterion(loss_type, [10] * 4),
        optimizer=torch.optim.SGD(groups, lr=0.5),
        schedule=lambda progress: 1 - progress,
        train_batches=lambda epoch: zip(inputs.split(10), LABELS.split(10), strict=True),
        val_batches=lambda: zip(INPUTS.split(7), LABELS.split(7), strict=True),
        batches_per_epoch=4,
        images_per_epoch=40,
        num_classes=4,
        epochs=epochs,
        **settings,
    )


def open_run(tmp_path) -> Run:
    run = Run(tmp_path, "x")
    run.open(Description())
    return run


def test_learning_rate_follows_the_schedule():
    run = training(epochs=2)
    run.set_lr(1, 0)
    assert run.optimizer.param_groups[0]["lr"] == 0.5
    run.set_lr(2, 2)  # 1 epoch and 2 of 4 batches of 2 epochs: 3/4 done
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.125)


def test_accumulated_parts_have_the_gradient_of_the_whole_batch():
    whole, parts = training(), training(accumulate=3)
    for each in (whole, parts):
        loss = backward(each, INPUTS[:10], LABELS[:10], CPU)
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(whole.model(INPUTS[:10]), LABELS[:10]).item())
    assert torch.allclose(whole.model.weight.grad, parts.model.weight.grad, atol=1e-7)


def test_weights_of_a_row_follow_from_its_accuracy(tmp_path):
    run = open_run(tmp_path)
    fit(training(), run, Description(), CPU)
    for row in read_log(run.log):
        difficulty = [1 - accuracy for accuracy in row.class_accuracy]
        assert row.class_weight == pytest.approx([4 * d / sum(difficulty) for d in difficulty], rel=1e-3)


def test_the_best_epoch_is_kept_not_the_last(tmp_path):
    """Of 4 images, 2, 3, 3 and 1 are recognised: the second epoch is the first of the best."""
    falling, weights, hits = training(epochs=4, loss_type="CE"), [], iter([2, 3, 3, 1])

    def val_batches():
        weights.append(falling.model.weight.detach().clone())
        wrong = torch.arange(4) >= next(hits)
        return [(INPUTS[:4], (falling.model(INPUTS[:4]).argmax(1) + wrong) % 4)]

    falling.val_batches = val_batches
    run = open_run(tmp_path)
    fit(falling, run, Description(), CPU)
    best = load_checkpoint(run.best)
    assert (best["epoch"], best["accuracy"], falling.best_accuracy) == (2, 0.75, 0.75)
    assert torch.equal(best["state_dict"]["weight"], weights[1]) and not torch.equal(weights[1], weights[2])


def test_deferred_weights_come_with_the_third_of_three_epochs(tmp_path):
    """Effective numbers at beta 1/2: (1/2) / (1 - 1/2 ** n) for n = 1, 2, 3, 4 is 1, 2/3, 4/7, 8/15, in all 291/105."""
    deferring, run = training(epochs=3), open_run(tmp_path)
    deferring.criterion = build_rival("LDAM-DRW", [1, 2, 3, 4], beta=0.5)
    fit(deferring, run, Description(), CPU)
    deferred = [4 * share * 105 / 291 for share in (1, 2 / 3, 4 / 7, 8 / 15)]
    for row, expected in zip(read_log(run.log), ([1] * 4, [1] * 4, deferred), strict=True):
        assert row.class_weight == pytest.approx(expected, rel=1e-3)


def test_running_statistics_are_averaged_like_weights():
    averaging = training(norm=nn.BatchNorm1d(3))
    averaging.average_weights(0.75)
    for mean in (0.0, 1.0):
        averaging.model[0].running_mean.fill_(mean)
        averaging.step()
    assert averaging.selected[0].running_mean.tolist() == [0.25] * 3


def test_the_average_of_the_weights_is_validated_and_kept(tmp_path):
    """Decay 0.5 over 4 steps: the average after each is half what it was and half the new weights; it starts as the
    first step's."""
    averaging = training(epochs=1)
    averaging.average_weights(0.5)
    steps = []
    averaging.optimizer.register_step_post_hook(lambda *_: steps.append(averaging.model.weight.detach().clone()))
    run = open_run(tmp_path)
    fit(averaging, run, Description(), CPU)
    expected = ((steps[0] + steps[1]) / 2 + steps[2]) / 4 + steps[3] / 2
    best = load_checkpoint(run.best)
    assert torch.allclose(best["state_dict"]["weight"], expected, atol=1e-6)
    assert not torch.allclose(best["state_dict"]["weight"], averaging.model.weight, atol=1e-3)
    assert "trained" not in best and "optimizer" not in best
    logits = INPUTS @ expected.T + best["state_dict"]["bias"]
    assert read_log(run.log)[0].accuracy == pytest.approx((logits.argmax(1) == LABELS).float().mean().item())


def test_an_average_and_muon_resume_as_if_uninterrupted(tmp_path):
    whole, first, second = (training(epochs=3) for _ in range(3))
    for each in (whole, first, second):
        each.average_weights(0.9)
        groups = [
            {"params": [each.model.bias], "initial_lr": 0.5},
            {"params": [each.model.weight], "initial_lr": 0.1, "orthogonal": True},
        ]
        each.optimizer = Muon(groups, lr=0.5, momentum=0.9, nesterov=True)
    run = open_run(tmp_path)
    fit(whole, open_run(tmp_path / "whole"), Description(), CPU)
    first.epochs = 2
    first.schedule = lambda progress: 1 - progress * 2 / 3
    fit(first, run, Description(), CPU)
    second.restore(load_checkpoint(run.last), run.last)
    fit(second, run, Description(), CPU)
    for ours, theirs in ((second.model, whole.model), (second.selected, whole.selected)):
        assert torch.equal(ours.weight, theirs.weight)
    assert not torch.equal(whole.selected.weight, whole.model.weight)


def test_validation_after_every_second_epoch_and_the_last(tmp_path):
    run = open_run(tmp_path)
    fit(training(epochs=5, validate_after_every=2), run, Description(), CPU)
    assert [not math.isnan(row.accuracy) for row in read_log(run.log)] == [False, True, False, True, True]


def test_an_epoch_without_validation_shows_no_accuracy(tmp_path, capsys):
    fit(training(epochs=2, validate_after_every=2), open_run(tmp_path), Description(), CPU)
    first, second = (re.search("val accuracy ([^ ]+) ", line)[1] for line in capsys.readouterr().out.splitlines()[:2])
    assert first == "-" and 0 <= float(second) <= 1


def test_fewer_images_than_processes_are_refused(tmp_path):
    each = training()
    each.train_batches = lambda epoch: iter(())
    with pytest.raises(ValueError, match="40 training images .* 1 processes"):
        fit(each, open_run(tmp_path), Description(), CPU)


def test_resume_is_exact(tmp_path):
    whole = training(epochs=4, loss_type="EQL")
    fit(whole, open_run(tmp_path / "whole"), Description(), CPU)
    run = open_run(tmp_path / "parts")
    first = training(epochs=4, loss_type="EQL")
    batches = first.train_batches

    def interrupted(epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return batches(epoch)

    first.train_batches = interrupted
    with pytest.raises(KeyboardInterrupt):
        fit(first, run, Description(), CPU)
    second = training(epochs=4, loss_type="EQL")
    second.restore(load_checkpoint(run.last), run.last)
    assert second.first_epoch == 3
    fit(second, run, Description(), CPU)
    assert torch.equal(second.model.weight, whole.model.weight)
    assert second.best_accuracy == whole.best_accuracy


def test_resume_in_another_precision_is_refused(tmp_path):
    """`auto` may be bf16 on the first machine and fp32 on the second, where the flag helps.

    An earlier version's state does not say.
    """
    run = open_run(tmp_path)
    fit(training(epochs=1), run, Description(arguments={"precision": "auto"}), CPU)
    in_bf16 = Runtime(CPU.device, bf16=True)
    with pytest.raises(ValueError, match="trained in fp32, .* bf16"):
        start_or_resume(training(), run, Description(), "resume", in_bf16)
    assert not start_or_resume(training(), run, Description(arguments={"precision": "fp32"}), "resume", CPU)
    state = load_checkpoint(run.last)
    del state["precision"]
    torch.save(state, run.last)
    assert not start_or_resume(training(), run, Description(), "resume", in_bf16)
    torch.save({**state, "arguments": {"precision": "fp32"}}, run.last)
    with pytest.raises(ValueError, match="trained in fp32, .* bf16"):
        start_or_resume(training(), run, Description(arguments={"precision": "auto"}), "resume", in_bf16)


def test_restore_refuses_what_does_not_fit(tmp_path):
    run = open_run(tmp_path)
    fit(training(), run, Description(), CPU)
    state = load_checkpoint(run.last)
    for key in ("criterion", "optimizer", "epoch"):
        with pytest.raises(ValueError, match="last_x.pth does not hold"):
            training().restore({k: v for k, v in state.items() if k != key}, run.last)
    with pytest.raises(ValueError, match="last_x.pth does not fit"):
        training().restore({**state, "state_dict": {}}, run.last)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_loss_or_gradient_that_is_not_finite_stops_at_its_batch(tmp_path, bad):
    inputs = INPUTS.clone()
    inputs[25] = bad
    run = open_run(tmp_path)
    fit(training(epochs=1), run, Description(), CPU)
    good = run.last.read_bytes()
    poisoned = training(epochs=2, inputs=inputs)
    poisoned.restore(load_checkpoint(run.last), run.last)
    poisoned.first_epoch = 2
    before = poisoned.model.weight.clone()
    with pytest.raises(ValueError, match=r"epoch 2, batch 3: loss .*norm.*last finite loss was [0-9.]+;"):
        if bad == 1e30:  # a finite loss whose gradient overflows when squared
            poisoned.criterion = build_rival("CE", [10] * 4)
        fit(poisoned, run, Description(), CPU)
    assert torch.isfinite(poisoned.model.weight).all()
    assert not torch.equal(before, poisoned.model.weight)
    assert run.last.read_bytes() == good


@pytest.mark.parametrize("bad", [math.nan, 1e30])
def test_a_gpu_reads_later_and_still_names_the_batch(tmp_path, monkeypatch, bad):
    """The epoch ends before 50 batches are full, and nothing of it reaches a checkpoint."""
    monkeypatch.setattr(Runtime, "batches_between_reads", 50)
    inputs = INPUTS.clone()
    inputs[25] = bad
    run, poisoned = open_run(tmp_path), training(inputs=inputs, loss_type="CE")
    with pytest.raises(ValueError, match=r"^epoch 1, batch 3: loss .*gradient norm.*last finite loss was [0-9.]+;"):
        fit(poisoned, run, Description(), CPU)
    assert not run.last.exists() and not run.log.exists()


def test_reading_later_changes_no_number(tmp_path, monkeypatch):
    rows, weights = [], []
    for every in (1, 3, 50):
        monkeypatch.setattr(Runtime, "batches_between_reads", every)
        run, same = open_run(tmp_path / str(every)), training()
        fit(same, run, Description(), CPU)
        rows.append([row.loss for row in read_log(run.log)])
        weights.append(same.model.weight)
    assert rows[0] == rows[1] == rows[2]
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_what_would_wait_is_noticed():
    values = torch.arange(3)
    with Waits() as waits:
        values.sum().item()
        values[values > 1]
        if values[0]:
            pass
    assert len(waits.seen) == 3


class Waits(TorchDispatchMode):
    """Note each operation that would make the CPU wait for a GPU: its result is a Python number, or has a shape that
    depends on values."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        numbers = operation is torch.ops.aten.index.Tensor and all(
            index is None or index.dtype == torch.long for index in args[1]
        )
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(operation.tags) and not numbers:
            self.seen.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", ["paper", "fast"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_no_batch_waits_for_the_gpu(monkeypatch, loss, recipe):
    """CIFAR's own batches, loss, optimizer and average, until the losses are read at the end of the epoch.

    A copy from the CPU that waits cannot be seen here.
    """
    monkeypatch.setattr(Runtime, "batches_between_reads", 50)
    args = cifar_train.parse_arguments(["--dataset", "digits", "--loss_type", loss.name])
    images = ImageSet(torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8), torch.arange(12) % 10)
    args.batch_size = 4
    waiting = cifar_train.build_training(args, cifar_train.RECIPES[recipe], loss.head, images, images, CPU)
    train_epoch(waiting, 1, CPU)  # the first step sets up momentum and average
    with Waits() as waits:
        train_epoch(waiting, 2, CPU)
    assert not waits.seen


def test_solved_validation_keeps_training(tmp_path):
    run = training(epochs=2)
    run.val_batches = lambda: [(torch.eye(4)[:, :3] * 1e9, torch.tensor([0, 1, 2, 3]))]
    run.model.weight.data = torch.eye(4)[:, :3] * 1e9
    run.model.bias.data = torch.tensor([0.0, 0, 0, 1])
    run.train_batches = lambda epoch: [(torch.zeros(4, 3), torch.arange(4))] * 4
    fit(run, open_run(tmp_path), Description(), CPU)
    assert run.best_accuracy == 1
    assert run.criterion.weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {key: value for key, value in state.items() if key != "state_dict"},
        lambda state: {**state, "criterion": {"weight": torch.ones(1)}},
        lambda state: {**state, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(7)}}}},
        lambda state: {**state, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(4, 3, device="meta")}}}},
        lambda state: {**state, "optimizer": {"state": {9: {"momentum_buffer": torch.zeros(4, 3)}}}},
    ],
)
def test_a_state_that_is_not_of_this_training(change, tmp_path):
    run = open_run(tmp_path)
    fit(training(epochs=1), run, Description(), CPU)
    with pytest.raises(ValueError, match=r"last_x\.pth"):
        training(epochs=2).restore(change(load_checkpoint(run.last)), run.last)


def test_a_momentum_of_one_shared_number_gets_memory_of_its_own(tmp_path):
    """PyTorch would write to 12 numbers where one is."""
    run = open_run(tmp_path)
    fit(training(epochs=1), run, Description(), CPU)
    shared = {"state": {0: {"momentum_buffer": torch.zeros(1).expand(4, 3)}}}
    resumed = training(epochs=2)
    resumed.restore({**load_checkpoint(run.last), "optimizer": shared}, run.last)
    assert resumed.optimizer.state[resumed.model.weight]["momentum_buffer"].is_contiguous()
    assert resumed.optimizer.param_groups[0]["lr"] == 0.25  # half of 0.5, of this training's own groups


def test_epoch_seeds_differ_and_do_not_change():
    assert len({epoch_seed(seed, epoch) for seed in range(20) for epoch in range(500)}) == 10_000
    assert epoch_seed(0, 1) == epoch_seed(0, 1) != epoch_seed(1, 0)
    assert 0 <= epoch_seed(2**32 - 1, 10) < 2**32


def test_where_validation_is_not_balanced_the_mean_of_the_classes_decides(tmp_path):
    """Six images of class 0 and two of class 1.

    Right are 6 and 0, then 3 and 2, then 5 and 1: top-1 is 6/8, 5/8, 6/8, the mean of the classes 1/2, 3/4, 2/3.
    Top-1 would keep the first epoch, the mean keeps the second one.
    """
    labels, kept = torch.tensor([0] * 6 + [1] * 2), {}
    for keep_by_class in (False, True):
        hits = iter([(6, 0), (3, 2), (5, 1)])

        def val_batches(hits=hits):
            first, second = next(hits)
            right = torch.tensor([index < first for index in range(6)] + [index < second for index in range(2)])
            answers = torch.where(right, labels, 1 - labels)
            return [(torch.nn.functional.one_hot(answers, 4).float(), labels)]

        answering = training(epochs=3, loss_type="CE", keep_by_class=keep_by_class)
        answering.parallel_model, answering.val_batches = Answering(answering.model), val_batches
        run = Run(tmp_path / str(keep_by_class), "x")
        run.open(Description())
        fit(answering, run, Description(), CPU)
        kept[keep_by_class] = load_checkpoint(run.best)["epoch"], answering.best_accuracy
        assert load_checkpoint(run.last).get("keep_by_class", False) == keep_by_class
    assert kept == {False: (1, 0.75), True: (2, 0.75)}


class Answering(nn.Module):
    """Answers in evaluation what its input says, and trains the model otherwise."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.inner = model

    def forward(self, inputs):
        return self.inner(inputs) if self.training else inputs


def test_an_older_run_goes_on_keeping_by_accuracy(tmp_path):
    """Its best_accuracy is a top-1, which a mean of classes must not be compared with."""
    run, old = open_run(tmp_path), training()
    fit(old, run, Description(), CPU)
    state, resumed = load_checkpoint(run.last), training(epochs=4, keep_by_class=True)
    assert "keep_by_class" not in state
    resumed.restore(state, run.last)
    assert not resumed.keep_by_class
    again = training(epochs=4, keep_by_class=True)
    again.restore({**resumed.state(), "epoch": 3, "keep_by_class": True}, run.last)
    assert again.keep_by_class


@pytest.mark.parametrize(
    "build",
    [
        lambda groups: torch.optim.Adam(groups, lr=0.1, amsgrad=True),
        lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
        lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5),
        lambda groups: torch.optim.Adagrad(groups, lr=0.1),
        lambda groups: torch.optim.NAdam(groups, lr=0.1),
    ],
    ids=["Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"],
)
def test_any_optimizer_resumes_as_if_uninterrupted(build, tmp_path):
    whole, first, second = (training(epochs=3) for _ in range(3))
    for each in (whole, first, second):
        each.optimizer = build([{"params": each.model.parameters(), "initial_lr": 0.1}])
    fit(whole, open_run(tmp_path / "whole"), Description(), CPU)
    run = open_run(tmp_path / "parts")
    first.epochs = 2
    first.schedule = lambda progress: 1 - progress * 2 / 3
    fit(first, run, Description(), CPU)
    second.restore(load_checkpoint(run.last), run.last)
    fit(second, run, Description(), CPU)
    assert torch.equal(second.model.weight, whole.model.weight)


def test_a_state_of_an_optimizer_that_is_no_parameters_shape_is_refused(tmp_path):
    run = open_run(tmp_path)
    fit(training(epochs=1), run, Description(), CPU)
    state = load_checkpoint(run.last)
    for value in (torch.zeros(7), "text"):
        odd = {**state, "optimizer": {"state": {0: {"exp_avg": value}}}}
        with pytest.raises(ValueError, match=r"last_x\.pth .*exp_avg of parameter 0"):
            training(epochs=2).restore(odd, run.last)


def test_a_loss_that_draws_resumes_with_the_same_draws(tmp_path):
    """Classes of 3 of 100 images are rare: EQL leaves each out of nine tenths of the images, by chance."""

    def drawing() -> Training:
        each = training(epochs=3)
        each.criterion = build_rival("EQL", [47, 47, 3, 3], eql_lambda=0.05)
        return each

    whole, second, run = drawing(), drawing(), open_run(tmp_path / "parts")
    fit(whole, open_run(tmp_path / "whole"), Description(), CPU)
    first = drawing()
    first.epochs = 1
    first.schedule = lambda progress: 1 - progress / 3
    fit(first, run, Description(), CPU)
    torch.manual_seed(99)
    second.restore(load_checkpoint(run.last), run.last)
    fit(second, run, Description(), CPU)
    assert torch.equal(second.model.weight, whole.model.weight)


def test_each_process_draws_numbers_of_its_own(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    for rank in range(3):
        each = training()
        seeds.clear()
        run_epoch(each, 1, Runtime(CPU.device, rank=rank))
        assert seeds == [epoch_seed(0, 1, 1 + rank)]


def test_the_mean_loss_counts_images_not_batches(tmp_path):
    """Two batches of four images and one of two, at learning rate 0: the mean over all ten images."""
    each, run = training(epochs=1, loss_type="CE"), open_run(tmp_path)
    each.schedule = lambda progress: 0.0
    each.train_batches = lambda epoch: zip(INPUTS[:10].split(4), LABELS[:10].split(4), strict=True)
    expected = nn.functional.cross_entropy(each.model(INPUTS[:10]), LABELS[:10]).item()
    parts = [nn.functional.cross_entropy(each.model(x), y).item() for x, y in each.train_batches(1)]
    fit(each, run, Description(), CPU)
    assert read_log(run.log)[0].loss == float(f"{expected:.4g}") != float(f"{sum(parts) / 3:.4g}")


def test_groups_without_an_initial_rate_get_it():
    each = training()
    optimizer = torch.optim.SGD(each.model.parameters(), lr=0.3)
    again = dataclasses.replace(each, optimizer=optimizer)
    again.set_lr(2, 0)  # a third of three epochs is done
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * 2 / 3)


def test_what_a_loss_warns_of_is_one_line_of_the_main_process(capsys):
    """Class 0 alone is recognised: the paper's weight of it is 0."""
    each = training()
    each.parallel_model = Answering(each.model)
    answers = nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), 4).float()
    each.val_batches = lambda: [(answers, torch.arange(4))]
    for rank, lines in ((1, 0), (0, 1)):
        each.criterion = build_criterion("CDB-CE", [10] * 4)
        validate(each, Runtime(CPU.device, rank=rank))
        printed = capsys.readouterr()
        assert (printed.out.count("\n"), printed.err) == (lines, "")
    assert "class 0" in printed.out
