"""Pooling before normalising, against the three operations in their usual order."""

from __future__ import annotations

import functools
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn.backbones import Conv4, Normalisation, pooled
from metalearn.backbones.pooled import normalised_pooled, upright
from metalearn.memory import LiveBytes
from tests.metalearn.measure import SavedBytes

EPS = 1e-5
TASKS, SIZES, CHANNELS = 3, (4, 5, 4, 5, 4, 5), 6
ROUNDING = torch.finfo(torch.float64).eps

Three = tuple[Tensor, Tensor, Tensor]


def inputs(*, each: int, layout: torch.memory_format, side: int = 7) -> tuple[Three, list[int]]:
    """Images, scale and shift of `each` tasks next to each other; an odd side leaves a row out."""
    generator = torch.Generator().manual_seed(each)
    sizes = list(SIZES) if each == 1 else [size * each for size in (4, 5)]

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    images = (3 + 2 * draw(sum(sizes), CHANNELS, side, side)).contiguous(memory_format=layout)
    scale, shift = draw(CHANNELS).abs(), draw(CHANNELS)
    ours = (images, scale.repeat(each), shift.repeat(each))
    for one in ours:
        one.requires_grad_()
    return ours, sizes


def usual(images: Tensor, scale: Tensor, shift: Tensor, sizes: list[int]) -> Tensor:
    pieces = []
    for x in images.split(sizes):
        apart = x.reshape(-1, len(scale), *x.shape[2:])
        y = F.batch_norm(apart, None, None, scale, shift, True, 0.0, EPS).view_as(x)
        pieces.append(F.relu(F.max_pool2d(y, 2)))
    return torch.cat(pieces)


def close(found: Tensor, expected: Tensor) -> bool:
    # Sums of 5 * 49 pixels in two orders, each number of them some tens of roundings away.
    return bool((found - expected).abs().max() <= 1e4 * ROUNDING * expected.abs().max().clamp(1))


@pytest.mark.parametrize("block", [2**18, 2 * CHANNELS * 49])  # two images at a time
@pytest.mark.parametrize(
    ("each", "layout"),
    [(1, torch.channels_last), (1, torch.contiguous_format), (TASKS, torch.contiguous_format)],
)
def test_same_values_and_derivatives(
    each: int, layout: torch.memory_format, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooled, "_BLOCK", block)
    ours, sizes = inputs(each=each, layout=layout)
    found, means, variances = normalised_pooled(*ours, sizes, EPS)
    expected = usual(*ours, sizes)
    assert close(found, expected)
    assert found.is_contiguous(memory_format=layout)
    weights = torch.randn(found.shape, dtype=found.dtype)
    for own, other in zip(
        torch.autograd.grad((found * weights).sum(), ours),
        torch.autograd.grad((expected * weights).sum(), ours),
        strict=True,
    ):
        assert close(own, other)
    for piece, mean, variance in zip(ours[0].split(sizes), means, variances, strict=True):
        apart = piece.detach().reshape(-1, each * CHANNELS, 7, 7)
        assert close(mean, apart.mean((0, 2, 3)))
        assert close(variance, apart.var((0, 2, 3), correction=0))


def test_statistics_of_many_pixels_in_float32() -> None:
    """One sum after another is off by 5e-5 here, and so is a hypergradient that goes through it."""
    generator = torch.Generator().manual_seed(0)
    images = 1.5 + torch.randn((25, CHANNELS, 84, 84), generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    ones = torch.ones(CHANNELS)
    _, means, variances = normalised_pooled(images, ones, ones, [25], EPS)
    wide = images.double()
    expected = wide.var((0, 2, 3), correction=0)
    # sums of 25 * 84 numbers one after another: 45 roundings at random, and a few for what follows
    bound = 50 * torch.finfo(torch.float32).eps
    assert ((variances[0] - expected) / expected).abs().max() <= bound
    assert ((means[0] - wide.mean((0, 2, 3))) / expected.sqrt()).abs().max() <= bound


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (1, 2), (0, 1)], ids=str)
def test_derivatives_of_derivatives(frozen: tuple[int, ...]) -> None:
    """Of what is not frozen: 0 the images (as behind frozen filters), 1 the scale, 2 the shift."""
    ours, sizes = inputs(each=1, layout=torch.channels_last, side=4)
    for index in frozen:
        ours[index].requires_grad_(False)
    wanted = [one for one in ours if one.requires_grad]

    def answer(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return normalised_pooled(images, scale, shift, sizes, EPS)[0]

    found, expected = answer(*ours), usual(*ours, sizes)
    weights = torch.randn(found.shape, dtype=found.dtype)
    second = []
    for one in (found, expected):
        first = torch.autograd.grad((one * weights).sum(), wanted, create_graph=True)
        total = torch.stack([part.square().sum() for part in first]).sum()
        second.append(torch.autograd.grad(total, wanted, materialize_grads=True))
    for own, other in zip(*second, strict=True):
        assert close(own, other)


def test_under_vmap() -> None:
    ours, sizes = inputs(each=1, layout=torch.contiguous_format)
    batch = [torch.stack([one, 2 * one, one]) for one in ours]
    whole = functools.partial(normalised_pooled, sizes=sizes, eps=EPS)
    found = torch.vmap(lambda x, s, t: whole(x, s, t)[0])(*batch)
    for index, answer in enumerate(found):
        x, scale, shift = (one[index] for one in batch)
        assert close(answer, usual(x, scale, shift, sizes))


def test_keeps_its_input_its_output_and_no_more() -> None:
    ours, sizes = inputs(each=1, layout=torch.channels_last, side=16)
    with SavedBytes() as saved:
        found = normalised_pooled(*ours, sizes, EPS)[0]
    own = ours[0].nbytes + found.nbytes
    assert own == 1.25 * ours[0].nbytes
    statistics = 2 * len(sizes) * CHANNELS * 8
    assert saved.peak == own + statistics + 2 * CHANNELS * 8
    with SavedBytes() as saved:
        kept = usual(*ours, sizes)
    # normalised, and per pooled pixel an index of 8 bytes and a value: in float32 3, not 2.5
    assert saved.peak > 2.5 * ours[0].nbytes
    assert kept.shape == found.shape


def test_backward_goes_through_the_images_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what must be there, it holds what it needs for some images only."""
    ours, sizes = inputs(each=1, layout=torch.channels_last, side=32)
    image = CHANNELS * 32 * 32
    monkeypatch.setattr(pooled, "_BLOCK", image)
    found = normalised_pooled(*ours, sizes, EPS)[0]
    gradient = torch.randn_like(found)
    present = [*ours, found, gradient]
    with LiveBytes(present) as live:
        torch.autograd.grad(found, ours, gradient)
    # the result; an index of 4 bytes for each window of the largest piece; for each window of one
    # image its index in 8 bytes, its value with and without the mean, and its gradient; for each of
    # its pixels what goes to the largest; and what is there for each channel
    windows = image // 4
    beside = image * sum(sizes) * 8 + max(sizes) * windows * 4 + (4 * windows + image) * 8 + 2**12
    assert live.peak <= sum(one.nbytes for one in present) + beside
    assert beside < 1.2 * ours[0].nbytes


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_images_that_are_spent_become_their_derivative(
    each: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no graph is kept; and the derivatives are the same to the bit."""
    monkeypatch.setattr(pooled, "_BLOCK", CHANNELS * 7 * 7)  # several blocks
    ours, sizes = inputs(each=each, layout=layout)
    found = normalised_pooled(*ours, sizes, EPS)[0]
    gradient = torch.randn_like(found)
    expected = torch.autograd.grad(found, ours, gradient)
    images = ours[0] * 1.0
    before = images.detach().clone()
    again = normalised_pooled(images, *ours[1:], sizes, EPS, spend=True)[0]
    for keep in (True, True, False):
        assert torch.equal(images, before)
        derivatives = torch.autograd.grad(again, ours, gradient, retain_graph=keep)
        assert all(torch.equal(a, b) for a, b in zip(derivatives, expected, strict=True))
    # several tasks' channels are one image's only in the contiguous layout
    viewed = each == 1 or layout is torch.contiguous_format
    assert torch.equal(images, expected[0]) == viewed


def test_nothing_is_spent_where_torch_does_not_say_whether_a_graph_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch._C._autograd, "_get_current_graph_task_keep_graph")
    place = importlib.util.find_spec(pooled.__name__)
    assert place is not None
    assert place.loader is not None
    anew = importlib.util.module_from_spec(place)
    place.loader.exec_module(anew)
    ours, sizes = inputs(each=1, layout=torch.contiguous_format)
    images = ours[0] * 1.0
    before = images.detach().clone()
    found = anew.normalised_pooled(images, *ours[1:], sizes, EPS, spend=True)[0]
    torch.autograd.grad(found.sum(), ours)
    assert torch.equal(images, before)


def test_what_a_hook_has_seen_is_not_spent() -> None:
    network = Conv4(filters=8, channels=1, size=16)
    seen: list[Tensor] = []
    network.convs[0].register_forward_hook(lambda module, given, made: seen.append(made))
    images = torch.randn(1, 6, 1, 16, 16)
    features = network(images, 3)
    before = seen[0].detach().clone()
    features.sum().backward()
    assert torch.equal(seen[0], before)


@pytest.mark.parametrize("mode", ["transductive", "stored"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_scales_below_zero(mode: Normalisation, layout: torch.memory_format) -> None:
    """Where a normalisation turns a channel over, its least pixel becomes the largest."""
    generator = torch.Generator().manual_seed(0)
    module = Conv4(filters=8, channels=1, size=16, normalisation=mode, generator=generator).double()
    for norm in module.norms:
        nn.init.normal_(norm.weight, generator=generator)  # type: ignore[arg-type]
    images = torch.rand((TASKS, 9, 1, 16, 16), generator=generator, dtype=torch.float64)
    expected = []
    for task in images:
        x = task
        for conv, norm in zip(module.convs, module.norms, strict=True):
            y = conv(x)
            x = usual(y, norm.weight, norm.bias, [4, 5])  # type: ignore[arg-type]
        expected.append(x.flatten(1))
    module.to(memory_format=layout)  # type: ignore[call-overload]
    assert upright(module.norms[0].weight).min() == -1  # type: ignore[arg-type]
    found = module(images, 4)
    assert close(found, torch.stack(expected))
    if mode == "stored":
        first = [module.convs[0](task) for task in images]
        means = [
            torch.stack([y[part].mean((0, 2, 3)) for y in first]).mean(0)
            for part in (slice(4), slice(4, 9))
        ]
        moved = 0.9 * 0.1 * means[0] + 0.1 * means[1]
        assert close(module.norms[0].mean, moved)  # type: ignore[arg-type]
