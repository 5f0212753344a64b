"""Conv4 for all tasks at once against one task at a time, and what its modes mean."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from metalearn.backbones import Conv4
from metalearn.errors import ConfigError

TASKS, SUPPORT, QUERY, SIDE, FILTERS = 3, 4, 5, 28, 8
EPS = torch.finfo(torch.float64).eps


def backbone() -> Conv4:
    generator = torch.Generator().manual_seed(0)
    module = Conv4(filters=FILTERS, channels=2, size=SIDE, generator=generator).double()
    with torch.no_grad():  # scales and shifts of both signs, as training makes them
        for parameter in module.norms.parameters():
            parameter.copy_(torch.randn(FILTERS, generator=generator, dtype=torch.float64))
    return module


def images() -> Float[Tensor, "T n C H W"]:
    generator = torch.Generator().manual_seed(1)
    size = (TASKS, SUPPORT + QUERY, 2, SIDE, SIDE)
    return torch.rand(size, generator=generator, dtype=torch.float64)


def naive(module: Conv4, batch: Float[Tensor, "T n C H W"], support: int) -> Tensor:
    """One task, and one of its two parts, at a time, block by block as published."""
    tasks = []
    for task in batch:
        parts = []
        for x in (task[:support], task[support:]):
            for conv, norm in zip(module.convs, module.norms, strict=True):
                x = F.conv2d(x, conv.weight, padding=1)  # type: ignore[arg-type]
                x = F.batch_norm(
                    x,
                    None,
                    None,
                    norm.weight,  # type: ignore[arg-type]
                    norm.bias,  # type: ignore[arg-type]
                    training=True,
                )
                x = F.max_pool2d(F.relu(x), 2)
            parts.append(x.flatten(1))
        tasks.append(torch.cat(parts))
    return torch.stack(tasks)


def test_equals_one_task_at_a_time_forward_and_backward() -> None:
    module, batch = backbone(), images()
    found = module(batch, SUPPORT)
    expected = naive(module, batch, SUPPORT)
    assert found.shape == (TASKS, SUPPORT + QUERY, module.features) == expected.shape
    # The two differ in the order of their sums only: at most 9 * FILTERS products a convolution,
    # over SUPPORT * SIDE^2 pixels a mean, four blocks deep. Each normalisation keeps the size of
    # things at 1 (and its scale, up to 3, multiplies errors), so that errors add up to
    # terms * eps per block, 3^4 for the scales.
    terms = 9 * FILTERS + QUERY * SIDE**2
    bound = 4 * 3**4 * terms * EPS
    assert (found - expected).abs().max() <= bound * expected.abs().max()

    weights = list(module.parameters())
    cotangent = torch.rand(found.shape, generator=torch.Generator().manual_seed(2)).double()
    ours = torch.autograd.grad(found, weights, cotangent)
    theirs = torch.autograd.grad(expected, weights, cotangent)
    for a, b in zip(ours, theirs, strict=True):
        # A gradient adds such terms over all images and pixels of all tasks.
        assert (a - b).abs().max() <= TASKS * bound * b.abs().max()


def test_tasks_do_not_see_each_other_and_support_does_not_see_query() -> None:
    module, batch = backbone(), images()
    before = module(batch, SUPPORT)
    changed = batch.clone()
    changed[1, SUPPORT:] += 1 + torch.rand_like(changed[1, SUPPORT:])
    after = module(changed, SUPPORT)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert torch.equal(after[1, :SUPPORT], before[1, :SUPPORT])
    assert not torch.allclose(after[1, SUPPORT:], before[1, SUPPORT:])


def test_statistics_over_all_tasks_would_be_something_else() -> None:
    # The same images as one task of all the support and all the query: what must not be computed.
    module, batch = backbone(), images()
    pooled = torch.cat((batch[:, :SUPPORT].flatten(0, 1), batch[:, SUPPORT:].flatten(0, 1)))
    together = module(pooled[None], TASKS * SUPPORT)[0, : TASKS * SUPPORT]
    apart = module(batch, SUPPORT)[:, :SUPPORT].flatten(0, 1)
    assert (together - apart).norm() > 0.05 * apart.norm()


def test_group_normalisation_sees_one_image_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    module = Conv4(
        filters=8, channels=2, size=SIDE, normalisation="group", generator=generator
    ).double()
    batch = images()
    whole = module(batch, SUPPORT)
    for task in range(TASKS):
        for sample in range(SUPPORT + QUERY):
            alone = module(batch[task, sample][None, None], 1)[0, 0]
            # As above; an image's mean is over its own pixels.
            bound = 4 * (9 * FILTERS + SIDE**2) * EPS
            assert (alone - whole[task, sample]).abs().max() <= bound * whole.abs().max()


def test_the_episodes_layout_is_read_without_a_copy() -> None:
    sample_major = images().transpose(0, 1).contiguous()
    read: list[int] = []
    module = backbone()
    module.convs[0].register_forward_pre_hook(lambda _, args: read.append(args[0].data_ptr()))
    module(sample_major.transpose(0, 1), SUPPORT)
    assert read == [sample_major.data_ptr()]


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        module = Conv4(filters=4, channels=1, size=28, generator=generator)
        return torch.cat([p.flatten() for p in module.parameters()])

    before = torch.random.get_rng_state()
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    # Constructing layers draws from torch's own stream; nothing else may depend on that here.
    torch.random.set_rng_state(before)


def test_the_initial_weights_are_these_draws_in_this_order() -> None:
    """Runs are reproduced from their seed: neither the numbers nor their order may change."""
    module = Conv4(filters=6, channels=2, size=28, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    for conv, inputs in zip(module.convs, (2, 6, 6, 6), strict=True):
        scale = (2 / (9 * inputs)) ** 0.5  # He et al. 2015, for ReLU, by fan-in
        draws = torch.empty(6, inputs, 3, 3).normal_(0, scale, generator=generator)
        assert torch.equal(conv.weight, draws)  # type: ignore[arg-type]


def test_each_block_may_have_its_own_filters() -> None:
    module = Conv4(filters=(96, 192, 384, 512), channels=3, size=84)
    assert module.features == 512 * 5 * 5
    assert [norm.weight.numel() for norm in module.norms] == [96, 192, 384, 512]  # type: ignore[operator]
    found = Conv4(filters=(3, 4, 5, 6), channels=1, size=16)(torch.rand(2, 5, 1, 16, 16), 2)
    assert found.shape == (2, 5, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "0 filters"),
        ({"size": 15}, "15 pixels a side: it needs at least 1, 1 and 16"),
        ({"filters": (8, 8, 8, 0)}, "8, 8, 8, 0. filters"),
        ({"normalisation": "group", "filters": 12}, "12 filters: give a multiple of its 8 groups"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"filters": 8, "channels": 1, "size": 28} | arguments
    with pytest.raises(ConfigError, match=message):
        Conv4(**settings)  # type: ignore[arg-type]
