"""The cosine classifier against its definition."""

import pytest
import torch
from torch import nn

from longtail.heads import CosineHead, build_head


def test_a_cosine_head_gives_cosines():
    head = CosineHead(2, 3)
    head.weight.data = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, -1.0]])
    assert head(torch.tensor([[3.0, 4.0]])).tolist()[0] == pytest.approx([0.6, 0.8, -1.4 / 2**0.5])
    scaled = build_head("scaled_cosine", 2, 3)
    scaled.weight.data = head.weight.data
    assert scaled(torch.tensor([[3.0, 4.0]])).tolist()[0] == pytest.approx([19.2, 25.6, -44.8 / 2**0.5])
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_heads_by_name():
    assert isinstance(build_head("linear", 2, 3), nn.Linear) and isinstance(build_head("cosine", 2, 3), CosineHead)
    with pytest.raises(ValueError, match="linear, cosine, scaled_cosine.*'tail'"):
        build_head("tail", 2, 3)
