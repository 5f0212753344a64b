"""Which memory layout is picked, and that it is the only thing that changes."""

from __future__ import annotations

import pytest
import torch

from metalearn.backbones import Conv4, ResNet12
from metalearn.methods.presets import preset
from metalearn.training.build import channels_last_is_faster, lay_out
from tests.metalearn.methods.subjects import model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("memory-reduced", True),
        ("anil", True),
        ("protonet", True),
        ("fomaml", True),
        ("reptile", True),
        ("maml", False),
        ("imaml", False),
    ],
)
def test_channels_last_where_nothing_is_differentiated_twice(name: str, expected: bool) -> None:
    method = preset(name).method
    assert channels_last_is_faster(Conv4(filters=8, channels=3, size=16), method, CPU) == expected
    # not measured, so not picked
    assert not channels_last_is_faster(Conv4(filters=8, channels=3, size=16), method, CUDA)
    small = ResNet12(filters=(8, 8, 8, 8), channels=3, size=16, block=1)
    assert not channels_last_is_faster(small, method, CPU)


def test_laying_out_changes_strides_only() -> None:
    backbone = Conv4(filters=8, channels=3, size=16)
    subject = model(preset("memory-reduced").method, backbone)
    before = {name: value.clone() for name, value in subject.named_parameters()}
    for last in (True, False):
        lay_out(subject, channels_last=last)
        weight = backbone.convs[0].weight
        assert isinstance(weight, torch.Tensor)
        assert (weight.stride(1) == 1) == last
        for name, value in subject.named_parameters():
            assert torch.equal(value, before[name])
            layout = torch.channels_last if last and value.ndim == 4 else torch.contiguous_format
            assert value.is_contiguous(memory_format=layout)
