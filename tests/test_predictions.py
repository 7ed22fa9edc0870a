"""The table of predictions."""

import torch

from longtail.predictions import PredictionTable


def test_the_most_probable_classes_of_each_input_and_its_error(tmp_path):
    table = PredictionTable(["cat", "sea, deep", "dog"], top=2)
    table.add("a.jpg", torch.tensor([0.2, 0.7, 0.1]))
    table.add_error("b.jpg", "is damaged")
    table.write(tmp_path / "x.csv")
    assert table.failed == ["b.jpg"]
    assert (tmp_path / "x.csv").read_text().splitlines() == [
        "path,class_1,probability_1,class_2,probability_2,error",
        'a.jpg,"sea, deep",0.700000,cat,0.200000,',
        "b.jpg,,,,,is damaged",
    ]


def test_there_are_no_more_columns_than_classes(capsysbinary):
    PredictionTable(["cat"], top=5).write(None)
    assert capsysbinary.readouterr().out == b"path,class_1,probability_1,error\n"
