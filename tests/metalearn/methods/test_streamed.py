"""Steps that keep no activations, and episodes that are drawn chunk by chunk: the same gradient."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import Tensor

from metalearn.backbones import Conv4, Normalisation, ResNet12
from metalearn.data import Pool
from metalearn.errors import ConfigError
from metalearn.memory import LiveBytes
from metalearn.methods import LinearHeads, Method, Model
from metalearn.methods.lower import paper
from metalearn.tasks.episodes import Episodes, Sampler, chunked
from metalearn.tasks.stream import drawn
from metalearn.training.step import accumulate
from tests.metalearn.measure import Convolutions
from tests.metalearn.methods.subjects import accumulate_batch, close, episodes, ignore, model
from tests.metalearn.methods.test_accumulate import METHODS

HEADS = LinearHeads(lower=paper(steps=3, adjoint_steps=3), l2=0.3)
ON_FEATURES = ("memory-reduced", "itd-bio", "anil", "r2d2", "protonet")


def gradient_of(subject: Model) -> Tensor:
    return torch.cat([p.grad.flatten() for p in subject.parameters() if p.grad is not None])


def step(method: Method, subject: Model, batch: Episodes, *, size: int = 2) -> Tensor:
    """The gradient of a step in chunks; torch's generator at 0."""
    subject.zero_grad(set_to_none=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        accumulate_batch(method, subject, batch, size=size)
    return gradient_of(subject)


def streamed(subject: Model) -> Model:
    other = copy.deepcopy(subject)
    other.streamed = True
    return other


@pytest.mark.parametrize("name", ON_FEATURES)
def test_streaming_changes_no_gradient(name: str) -> None:
    method, batch = METHODS[name], episodes()
    plain = model(method)
    assert close(step(method, streamed(plain), batch), step(method, plain, batch))


@pytest.mark.parametrize("mode", ["transductive", "stored", "group"])
def test_streaming_keeps_to_the_normalisation(mode: Normalisation) -> None:
    generator = torch.Generator().manual_seed(0)
    backbone = Conv4(filters=8, channels=1, size=16, normalisation=mode, generator=generator)
    plain, batch = model(HEADS, backbone), episodes(side=16)
    other = streamed(plain)
    # four layers, each of which can double a relative error by its normalisation
    assert close(step(HEADS, other, batch), step(HEADS, plain, batch, size=1), condition=2**4)
    # running averages have noticed each image once, task by task
    for ours, theirs in zip(other.buffers(), plain.buffers(), strict=True):
        assert close(ours, theirs, condition=2**4)


def test_streaming_draws_what_it_drops_once() -> None:
    """The gradient is that of the pass that was made, which a graph kept whole gives."""
    generator = torch.Generator().manual_seed(0)
    filters = (8, 8, 8, 8)
    backbone = ResNet12(
        filters=filters, channels=1, size=16, block=1, drop_rate=0.2, generator=generator
    )
    subject, batch = streamed(model(HEADS, backbone)), episodes(tasks=2, side=16)
    shot = batch.support_labels.shape[1]

    class Parts(Model):
        """Tasks and their parts apart, in the same order, graph and all."""

        def features(self, images: Tensor, support: int) -> Tensor:
            return torch.cat(
                [
                    torch.cat([self.alone(x) for x in task.tensor_split([support], 1)], 1)
                    for task in images.split(1)
                ]
            )

        def alone(self, part: Tensor) -> Tensor:
            return super().features(part, part.shape[1])

    whole = Parts(copy.deepcopy(subject.backbone), {})  # type: ignore[arg-type]
    assert shot < batch.images.shape[1]
    expected = step(HEADS, whole, batch)
    # twelve layers
    assert close(step(HEADS, subject, batch), expected, condition=2**12)
    # ... and other draws give another one
    torch.manual_seed(1)
    subject.zero_grad(set_to_none=True)
    accumulate_batch(HEADS, subject, batch, size=2)
    assert not close(gradient_of(subject), expected, condition=2.0**20)


def test_streaming_is_two_passes_forward_and_one_back() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = model(HEADS, Conv4(filters=4, channels=1, size=16, generator=generator))
    batch = episodes(side=16)
    with Convolutions() as convolutions:
        accumulate_batch(HEADS, streamed(plain), batch)
    # four blocks for each task, support and query apart
    once = 2 * 4 * batch.tasks
    assert convolutions.calls == {"convolution": 2 * once, "convolution_backward": once}


@pytest.mark.parametrize("name", ["maml", "imaml", "reptile"])
def test_whole_networks_are_not_streamed(name: str) -> None:
    method = METHODS[name]
    with pytest.raises(ConfigError, match="streamed was given to a method that adapts"):
        method.loss(streamed(model(method)), episodes(), watch=ignore)


def sampler(pool: Pool) -> Sampler:
    return Sampler(pool=pool, way=3, shot=2, query=2, seed=0)


def test_drawing_chunk_by_chunk_draws_the_same(train_pool: Pool) -> None:
    draws = sampler(train_pool)
    generator = torch.Generator().manual_seed(0)
    subject = Model(Conv4(filters=4, channels=1, size=28, generator=generator), {})
    chunks = drawn(draws, chunked(range(7, 12), 2))
    accumulate(HEADS, subject, chunks, tasks=5, watch=ignore)
    found = gradient_of(subject)
    assert torch.equal(found, step(HEADS, subject, draws.sample(7, 5)))
    assert not torch.equal(found, step(HEADS, subject, draws.sample(8, 5)))


def peak(pool: Pool, subject: Model, tasks: int, *, together: bool = False) -> int:
    draws = sampler(pool)
    subject.zero_grad(set_to_none=True)
    gc.collect()
    gc.disable()  # a point that held itself would keep its graph until a collection
    with LiveBytes() as live:
        if together:
            accumulate_batch(HEADS, subject, draws.sample(0, tasks), size=1)
        else:
            chunks = drawn(draws, chunked(range(tasks), 1))
            accumulate(HEADS, subject, chunks, tasks=tasks, watch=ignore)
    gc.enable()
    found: int = live.peak
    return found


def test_memory_does_not_grow_with_the_tasks_of_a_step(train_pool: Pool) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = Model(Conv4(filters=8, channels=1, size=28, generator=generator), {})
    subject = streamed(plain)
    peak(train_pool, subject, 1)  # what is loaded at first use
    few, many = peak(train_pool, subject, 2), peak(train_pool, subject, 5)
    # for each chunk more its loss, and the flags of some ten checks that wait for the end
    assert 0 <= many - few <= 3 * 64
    # images of all tasks would be seen, and so would the graph of a whole task
    assert peak(train_pool, subject, 5, together=True) - few > 3 * 12 * 28 * 28 * 4
    # support or queries, six images each, are passed at a time: what the first convolution makes of
    # the other six is not there, and that of its block and what lies above is as large again
    assert peak(train_pool, plain, 2) - few > 6 * 8 * 28 * 28 * 4
