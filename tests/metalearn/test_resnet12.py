"""ResNet-12 against one task at a time as published, and its published size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn.backbones import Backbone, Conv4, DropBlock, ResNet12
from metalearn.errors import ConfigError

TASKS, SUPPORT, QUERY, SIDE = 2, 3, 4, 32
FILTERS = (3, 4, 5, 6)


def small() -> ResNet12:
    generator = torch.Generator().manual_seed(0)
    module = ResNet12(
        filters=FILTERS, channels=2, size=SIDE, block=2, average=False, generator=generator
    ).double()
    with torch.no_grad():  # scales and shifts of both signs, as training makes them
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn(len(parameter), generator=generator).double())
    return module.eval()  # drops nothing


def naive(module: ResNet12, batch: Tensor) -> Tensor:
    """One task, and one of its two parts, at a time; the order of operations as published."""

    def conv(x: Tensor, weight: Tensor, norm: nn.Module) -> Tensor:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        scale, shift = norm.weight, norm.bias
        assert isinstance(scale, Tensor)
        assert isinstance(shift, Tensor)
        return F.batch_norm(x, None, None, scale, shift, training=True)

    tasks = []
    for task in batch:
        parts = []
        for x in (task[:SUPPORT], task[SUPPORT:]):
            for block in module.blocks:
                weights = [part.weight for part in block.convs]  # type: ignore[union-attr]
                norms = list(block.norms)  # type: ignore[arg-type]
                y = F.leaky_relu(conv(x, weights[0], norms[0]), 0.1)
                y = F.leaky_relu(conv(y, weights[1], norms[1]), 0.1)
                y = conv(y, weights[2], norms[2])
                y = y + conv(x, block.short.weight, block.short_norm)  # type: ignore[arg-type, union-attr]
                x = F.max_pool2d(F.leaky_relu(y, 0.1), 2)
            parts.append(x.flatten(1))
        tasks.append(torch.cat(parts))
    return torch.stack(tasks)


def test_equals_one_task_at_a_time_forward_and_backward() -> None:
    module = small()
    generator = torch.Generator().manual_seed(1)
    shape = (TASKS, SUPPORT + QUERY, 2, SIDE, SIDE)
    batch = torch.rand(shape, generator=generator, dtype=torch.float64)
    found, expected = module(batch, SUPPORT), naive(module, batch)
    assert found.shape == (TASKS, SUPPORT + QUERY, module.features) == expected.shape
    # As for Conv4: 9 * 6 products a convolution and 4 * 32^2 pixels a mean, each multiplied by
    # a scale of up to 3 at every one of the 12 layers on the way.
    bound = 3**12 * (9 * 6 + QUERY * SIDE**2) * torch.finfo(torch.float64).eps
    assert bound < 1e-3  # what a wrong network would be off by, and more
    assert (found - expected).abs().max() <= bound * expected.abs().max()
    weights = list(module.parameters())
    cotangent = torch.rand(found.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(found, weights, cotangent)
    theirs = torch.autograd.grad(expected, weights, cotangent)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= TASKS * bound * b.norm()


def test_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        module = ResNet12(channels=3, size=84)
    found = sum(parameter.numel() for parameter in module.parameters())
    by_hand = 0
    for a, b in ((3, 64), (64, 160), (160, 320), (320, 640)):
        by_hand += 9 * a * b + 2 * 9 * b * b + a * b + 4 * 2 * b
    assert found == by_hand == 12_424_320  # "12.4M": Lee et al. 2019's filters, without a head


@pytest.mark.parametrize(
    ("size", "block", "average", "features"),
    [(84, 5, True, 640), (84, 5, False, 16_000), (32, 2, True, 640), (32, 2, False, 2_560)],
)
def test_shapes(size: int, block: int, average: bool, features: int) -> None:
    with torch.device("meta"):
        module = ResNet12(channels=3, size=size, block=block, average=average)
        answer = module(torch.empty(2, 7, 3, size, size), 5)
    assert module.features == features
    assert answer.shape == (2, 7, features)


def test_drops_as_published() -> None:
    module = ResNet12(filters=FILTERS, channels=1, size=84)
    drops = [part for part in module.modules() if isinstance(part, DropBlock)]
    assert [drop.block for drop in drops] == [1, 1, 5, 5]
    assert {drop.rate for drop in drops} == {0.1}


def test_both_are_backbones() -> None:
    assert isinstance(small(), Backbone)
    assert isinstance(Conv4(filters=8, channels=1, size=16), Backbone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": (0, 1, 1, 1)}, "0, 1, 1, 1. filters"),
        ({"size": 15}, "15 pixels a side: it needs at least 1, 1 and 16"),
        ({"size": 64}, "squares of side 5, but the last block's image has a side of 4"),
        ({"normalisation": "group", "filters": (8, 8, 12, 8)}, "12 filters: give a multiple"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"channels": 1, "size": 84} | arguments
    with pytest.raises(ConfigError, match=message):
        ResNet12(**settings)  # type: ignore[arg-type]
