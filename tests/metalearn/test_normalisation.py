"""Stored statistics, channels-last and recomputation, each against what it must not change."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn.backbones import Conv4, Norm, Normalisation, ResNet12

TASKS, SUPPORT, QUERY, SIDE = 3, 4, 5, 16
EPS = torch.finfo(torch.float64).eps

Build = Callable[[Normalisation, bool], Conv4 | ResNet12]


def conv4(normalisation: Normalisation, recompute: bool = False) -> Conv4:
    generator = torch.Generator().manual_seed(0)
    return Conv4(
        filters=(8, 8, 16, 24),
        channels=2,
        size=SIDE,
        normalisation=normalisation,
        recompute=recompute,
        generator=generator,
    ).double()


def resnet12(normalisation: Normalisation, recompute: bool = False) -> ResNet12:
    generator = torch.Generator().manual_seed(0)
    return ResNet12(
        filters=(8, 8, 16, 16),
        channels=2,
        size=SIDE,
        normalisation=normalisation,
        block=1,
        drop_rate=0.2,
        recompute=recompute,
        generator=generator,
    ).double()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (TASKS, SUPPORT + QUERY, 2, SIDE, SIDE)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def run(module: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Features and the gradient of a weighted sum of them, torch's generator at 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        answer = module(x, SUPPORT)
        weights = torch.linspace(-1, 1, answer.numel(), dtype=x.dtype).view_as(answer)
        gradients = torch.autograd.grad((answer * weights).sum(), list(module.parameters()))
    return answer.detach(), list(gradients)


def close(found: Tensor, expected: Tensor) -> bool:
    # Two orders of summation of at most 9 * 24 products a convolution and 5 * 16^2 pixels a
    # mean, twelve layers deep, each able to double a relative error by its normalisation.
    bound = 2**12 * (9 * 24 + QUERY * SIDE**2) * EPS
    return bool((found - expected).abs().max() <= bound * expected.abs().max())


def test_stored_statistics_are_running_means_of_the_tasks_own() -> None:
    norm = Norm(5, mode="stored").double()
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.zeros(5).double(), torch.ones(5).double()
    for samples in (SUPPORT, QUERY):
        x = torch.randn(samples * TASKS, 5, 4, 4, generator=generator, dtype=torch.float64)
        (found,) = norm([x], TASKS)
        by_task = [x[task::TASKS] for task in range(TASKS)]
        assert torch.equal(found, Norm(5, mode="transductive").double()([x], TASKS)[0])
        means = torch.stack([part.mean((0, 2, 3)) for part in by_task])
        variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in by_task])
        mean = 0.9 * mean + 0.1 * means.mean(0)
        variance = 0.9 * variance + 0.1 * variances.mean(0)
        # Means of 80 numbers of size 1, and an average of two: some hundred roundings.
        assert torch.allclose(norm.mean, mean, rtol=0, atol=1e3 * EPS)
        assert torch.allclose(norm.variance, variance, rtol=0, atol=1e3 * EPS)
        assert not torch.allclose(norm.mean, torch.zeros(5).double(), rtol=0, atol=1e-4)
    norm.eval()
    x = torch.randn(6, 5, 4, 4, generator=generator, dtype=torch.float64)
    expected = (x - mean[:, None, None]) / (variance + norm.eps).sqrt()[:, None, None]
    assert torch.allclose(norm([x], 3)[0], expected, rtol=0, atol=1e3 * EPS)


@pytest.mark.parametrize("build", [conv4, resnet12])
def test_stored_statistics_make_answers_independent_in_testing(build: Build) -> None:
    module, batch = build("stored", False), images()
    run(module, batch)  # moves the averages
    module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    whole = module(batch, SUPPORT)
    for task, sample in ((0, 0), (1, SUPPORT), (2, SUPPORT + QUERY - 1)):
        alone = module(batch[task, sample][None, None], 1)[0, 0]
        assert close(alone, whole[task, sample])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    # In training, and by transductive statistics, an image's answer does depend on the others.
    module.train()
    assert not close(module(batch[:, :2], 1)[0, 0], module(batch, SUPPORT)[0, 0])


@pytest.mark.parametrize("mode", ["transductive", "group"])
def test_the_other_modes_store_nothing_and_test_as_they_train(mode: Normalisation) -> None:
    module, batch = conv4(mode), images()
    assert not list(module.buffers())
    assert torch.equal(module(batch, SUPPORT), module.eval()(batch, SUPPORT))


@pytest.mark.parametrize("mode", ["transductive", "stored", "group"])
@pytest.mark.parametrize("build", [conv4, resnet12])
def test_channels_last_changes_the_layout_only(build: Build, mode: Normalisation) -> None:
    module, other = build(mode, False), build(mode, False)
    last = other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in (module, last):
        for drop in part.modules():  # its draws follow the layout
            if hasattr(drop, "rate"):
                drop.rate = 0.0
    layouts: list[bool] = []
    for conv in last.modules():
        if isinstance(conv, nn.Conv2d) and conv.in_channels > 2:  # the first are given images
            conv.register_forward_hook(
                lambda _, args, answer: layouts.extend(
                    x.is_contiguous(memory_format=torch.channels_last) for x in (args[0], answer)
                )
            )
    (expected, gradients), (found, others) = run(module, images()), run(last, images())
    assert layouts
    assert all(layouts)
    assert close(found, expected)
    for ours, theirs in zip(others, gradients, strict=True):
        assert close(ours, theirs)
    for ours, theirs in zip(last.buffers(), module.buffers(), strict=True):
        assert close(ours, theirs)


def test_channels_last_keeps_statistics_wide() -> None:
    """bfloat16 images are normalised by float32 statistics: the only rounding is of in and out."""
    norm = Norm(4, mode="transductive")
    x = torch.randn(SUPPORT * TASKS, 4, 6, 6, generator=torch.Generator().manual_seed(0)) + 3
    rounded = x.bfloat16()
    pieces = rounded.to(memory_format=torch.channels_last).chunk(TASKS)
    found = torch.cat(norm(pieces, TASKS))
    expected = torch.cat(norm(rounded.float().chunk(TASKS), TASKS))
    assert found.dtype == torch.bfloat16
    # One rounding of values up to 4 to 8 bits; statistics in bfloat16 (of mean 3) would be off by
    # 2^-9 * 3 each.
    assert (found.float() - expected).abs().max() <= 2**-8 * 4


@pytest.mark.parametrize("mode", ["transductive", "stored"])
def test_channels_last_statistics_are_as_exact_as_others_in_float32(mode: Normalisation) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(25, 4, 84, 84, generator=generator) + 3
    (expected,) = Norm(4, mode=mode).double()([x.double()], 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        (found,) = Norm(4, mode=mode)([given], 1)
        assert found.stride() == given.stride()
        # Values up to 5 of size after normalisation, in float32: sums in blocks round some tens of
        # times. Sums of 25 * 84^2 numbers one by one are off by 1e-4.
        assert (found - expected).abs().max() <= 5 * 64 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("mode", ["transductive", "stored", "group"])
@pytest.mark.parametrize("build", [conv4, resnet12])
def test_recomputing_changes_no_bit(build: Build, mode: Normalisation) -> None:
    kept, again = build(mode, False), build(mode, True)
    (expected, gradients), (found, others) = run(kept, images()), run(again, images())
    assert torch.equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(others, gradients, strict=True))
    # In particular running averages moved once, not once more in backward.
    for ours, theirs in zip(again.buffers(), kept.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("build", [conv4, resnet12])
def test_recomputing_keeps_no_activation_of_a_block(build: Build, recompute: bool) -> None:
    module = build("transductive", recompute)
    made: list[weakref.ref[Tensor]] = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, __, output: made.append(weakref.ref(output)))
    answer = module(images(), SUPPORT)
    convolutions = len(made)
    assert any(ref() is not None for ref in made) == (not recompute)
    torch.autograd.backward(answer.sum())
    assert len(made) == convolutions * (2 if recompute else 1)


def test_nothing_is_recomputed_where_there_is_no_graph() -> None:
    module = conv4("transductive", True)
    with torch.no_grad():
        found = module(images(), SUPPORT)
    assert torch.equal(found, conv4("transductive")(images(), SUPPORT))
    assert not found.requires_grad
    assert F.relu(found).equal(found)
