"""The loss in the Hugging Face Trainer, on a tiny BERT of random weights: texts are random words of ten topics.

With gradient accumulation the Trainer adds up the gradients of the parts, so a part's loss is its sum over the number
of items in the whole batch. A mean of each part would train with gradients that are as many times too large.
"""

import tempfile

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from cdb_loss import CDBLoss

CLASSES, WORDS = 10, 200
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def make_texts(counts: list[int]) -> list[dict[str, Tensor]]:
    """Return texts of 8 words, of which half are from the 20 words of the topic."""
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(counts))
    topical = labels[:, None] * 20 + torch.randint(20, (len(labels), 4))
    words = torch.cat([topical, torch.randint(WORDS, (len(labels), 4))], dim=1)
    return [{"input_ids": ids, "labels": label} for ids, label in zip(words, labels, strict=True)]


class UpdateDifficulty(TrainerCallback):
    """Update the weights after an evaluation, and save the loss's state with a checkpoint: the Trainer saves none."""

    def __init__(self, criterion: CDBLoss):
        self.criterion = criterion

    def on_evaluate(self, args, state, control, **kwargs):
        self.criterion.update()

    def on_save(self, args, state, control, **kwargs):
        torch.save(self.criterion.state_dict(), f"{args.output_dir}/checkpoint-{state.global_step}/criterion.pt")


def build_trainer(folder: str, **settings) -> Trainer:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=WORDS, num_labels=CLASSES, **SIZE)
    settings |= {"eval_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 3e-3, "report_to": []}
    arguments = TrainingArguments(folder, use_cpu=True, disable_tqdm=True, **settings)
    criterion = CDBLoss(CLASSES, reduction="sum", difficulty="smoothed").to(arguments.device)

    def count(logits: Tensor, labels: Tensor) -> Tensor:
        criterion.count(logits, labels)
        return logits.argmax(1)  # what the Trainer gathers for compute_metrics

    loss = lambda outputs, labels, num_items_in_batch: criterion(outputs.logits, labels) / num_items_in_batch  # noqa: E731
    data = [make_texts([int(200 * 20 ** (-c / 9)) for c in range(CLASSES)]), make_texts([10] * CLASSES)]
    return Trainer(BertForSequenceClassification(config), arguments, train_dataset=data[0], eval_dataset=data[1],
                   compute_loss_func=loss, preprocess_logits_for_metrics=count, callbacks=[UpdateDifficulty(criterion)],
                   compute_metrics=lambda r: {"accuracy": (r.predictions == r.label_ids).mean()})  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as out:
        build_trainer(out, num_train_epochs=4, gradient_accumulation_steps=2).train()
