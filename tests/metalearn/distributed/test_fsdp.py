"""A backbone whose weights FSDP2 keeps in parts: its features are as differentiable as any."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from tests.metalearn.distributed import sharded
from tests.metalearn.distributed.ranks import ranks


def test_the_hypergradient_of_a_sharded_backbone(tmp_path: Path) -> None:
    out = tmp_path / "gradient.safetensors"
    ended = ranks(2, sharded.fsdp, out, folder=tmp_path)
    assert [rank.code for rank in ended] == [0, 0], ended
    found = safetensors.torch.load_file(out)
    whole = sharded.backbone()
    losses = [
        sharded.upper_loss(whole(images), targets)
        for images, targets in (sharded.data(0), sharded.data(1))
    ]
    torch.stack(losses).mean().backward()
    for name, weight in whole.named_parameters():
        assert weight.grad is not None
        assert weight.grad.norm() > 0
        # CG to 1e-13 on systems of condition below 1e3
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-9, atol=1e-11)
