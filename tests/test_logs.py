"""A run's log is written and read back; a damaged one is named."""

import gzip
import math

import pytest

from longtail.logs import RowReader, best_index, cells, read_log
from longtail.records import EpochRow


def row(epoch: int, accuracy: float, class_accuracy: tuple[float, ...] = (0.5, 0.5)) -> EpochRow:
    return EpochRow(
        epoch=epoch, loss=1.0, accuracy=accuracy, class_accuracy=list(class_accuracy), class_weight=[1.0, 1.0]
    )


def test_a_row_as_the_log_has_it():
    """Four significant digits, six of the accuracy, which decides which epoch is kept; nothing for nan."""
    measured = EpochRow(
        epoch=12, loss=1 / 3, lr=0.00001234567, accuracy=0.1234564, class_accuracy=[0.5, math.nan], class_weight=[2, 0]
    )
    texts = cells(measured)
    assert texts == {
        "epoch": "12",
        "lr": "1.235e-05",
        "loss": "0.3333",
        "accuracy": "0.123456",
        "tau": "",
        "seconds": "",
        "images_per_second": "",
        "accuracy_0": "0.5",
        "accuracy_1": "",
        "weight_0": "2",
        "weight_1": "0",
    }
    again = RowReader(list(texts)).row(list(texts.values()))
    assert cells(again) == texts
    assert again.accuracy == 0.123456


def test_the_kept_epoch_is_the_first_of_the_best():
    rows = [row(1, 0.5), row(2, math.nan), row(3, 0.7), row(4, 0.7), row(5, 0.6)]
    assert best_index(rows) == 2


def test_the_mean_of_the_classes_chooses_where_a_run_keeps_by_it():
    """Means 0.5, 0.55 of two, 0.9 of the one class that has images, 0.9; top-1 falls."""
    rows = [row(1, 0.8, (0.9, 0.1)), row(2, 0.7, (0.6, 0.5)), row(3, 0.6, (0.9, math.nan)), row(4, 0.5, (0.9, 0.9))]
    assert (best_index(rows), best_index(rows, keep_by_class=True)) == (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,loss\n",
        "epoch,loss\n1\n",
        "epoch,loss\n1,2,3\n",
        "epoch,loss\nx,1\n",
        "loss\n1\n",
        "epoch,loss\n1,one\n",
        "epoch,loss\n0,1\n",
        "epoch\0,loss\n1,1\n",
        'epoch,loss\n1,"2\n',
        "epoch,loss\n1,1\n1,1\n",
        "epoch,loss\n2,1\n1,1\n",
        "epoch,loss\n" + 5000 * "9" + ",1\n",
    ],
)
def test_damaged_logs(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=r"x\.csv"):
        read_log(tmp_path / "x.csv")


def test_log_that_is_not_text(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match=r"x\.csv"):
        read_log(tmp_path / "x.csv")


def test_gzipped_logs(tmp_path):
    log, text = tmp_path / "x.csv.gz", b"epoch,loss\n1,0.5\n2,0.25\n"
    log.write_bytes(gzip.compress(text))
    assert [(row.epoch, row.loss) for row in read_log(log)] == [(1, 0.5), (2, 0.25)]
    damaged = bytearray(gzip.compress(text))
    damaged[12] ^= 255
    for content in (text, b"", gzip.compress(text)[:-9], damaged, gzip.compress(b"epoch,loss\n1\n")):
        log.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.csv\.gz (is not a run's log|holds no finished epoch)"):
            read_log(log)


def test_a_log_of_any_length_is_read(tmp_path):
    """That of 8,142 classes and 600 epochs has more than 64 MiB. Here a few long numbers are faster to read."""
    number = "1." + "0" * 100_000
    with open(tmp_path / "x.csv", "w") as file:
        file.write("epoch,loss,lr,tau\n")
        for epoch in range(1, 231):
            file.write(f"{epoch},{number},{number},{number}\n")
    assert (tmp_path / "x.csv").stat().st_size > 1 << 26
    assert read_log(tmp_path / "x.csv")[-1].epoch == 230
