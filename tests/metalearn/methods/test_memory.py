"""What an upper step costs, method by method: passes of the backbone, and memory against K."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from hypergrad import CG, Adjoint, Detached, GradientDescent, Implicit, Unrolled
from metalearn.backbones import Conv4
from metalearn.methods import (
    ImplicitMaml,
    LinearHeads,
    Maml,
    Method,
    Model,
    ProtoNet,
    Reptile,
    RidgeHeads,
)
from metalearn.methods.lower import Lower, paper
from metalearn.tasks.episodes import Episodes
from tests.metalearn.measure import Convolutions, saved_bytes
from tests.metalearn.methods.subjects import accumulate_batch, episodes, ignore, model

IMPLICIT = Implicit(CG(rtol=0.0, max_steps=2))


def conv4(method: Method) -> Model:
    generator = torch.Generator().manual_seed(0)
    return model(method, Conv4(filters=4, channels=1, size=16, generator=generator))


@pytest.fixture
def batch() -> Episodes:
    return episodes(tasks=2, side=16)


def lower(steps: int, adjoint: Adjoint) -> Lower:
    return Lower(by=GradientDescent(max_steps=steps, step_size=0.05), adjoint=adjoint)


@pytest.mark.parametrize(
    "method",
    [
        LinearHeads(lower=paper(steps=7, adjoint_steps=5), l2=0.1),
        LinearHeads(lower=lower(7, Unrolled()), l2=0.1),
        LinearHeads(lower=lower(7, Unrolled()), l2=0.0, learn_start=True),
        RidgeHeads(l2=0.1, sharpness=1.0),
        ProtoNet(),
    ],
)
def test_methods_on_features_run_the_backbone_once(method: Method, batch: Episodes) -> None:
    subject = conv4(method)
    with Convolutions() as convolutions:
        accumulate_batch(method, subject, batch)
    # Four blocks, for support and query of all tasks together.
    assert convolutions.calls == {"convolution": 4, "convolution_backward": 4}


def kept(method: Method, batch: Episodes) -> int:
    subject = conv4(method)
    return saved_bytes(lambda: method.loss(subject, batch, watch=ignore))


CONSTANT: dict[str, Callable[[int], Method]] = {
    "memory-reduced": lambda k: LinearHeads(lower=paper(steps=k, adjoint_steps=5), l2=0.1),
    "imaml": lambda k: ImplicitMaml(lower=lower(k, IMPLICIT), strength=2.0),
    "fomaml": lambda k: Maml(lower=lower(k, Detached())),
    "reptile": lambda k: Reptile(lower=lower(k, Detached())),
}
LINEAR: dict[str, Callable[[int], Method]] = {
    "itd-bio": lambda k: LinearHeads(lower=lower(k, Unrolled()), l2=0.1),
    "anil": lambda k: LinearHeads(lower=lower(k, Unrolled()), l2=0.0, learn_start=True),
    "maml": lambda k: Maml(lower=lower(k, Unrolled())),
}


@pytest.mark.parametrize("build", CONSTANT.values(), ids=CONSTANT.keys())
def test_implicit_and_first_order_methods_keep_as_much_for_every_k(
    build: Callable[[int], Method], batch: Episodes
) -> None:
    found = {kept(build(steps), batch) for steps in (1, 2, 5)}
    assert len(found) == 1
    assert found.pop() > 0


@pytest.mark.parametrize("build", LINEAR.values(), ids=LINEAR.keys())
def test_unrolled_methods_keep_linearly_more(
    build: Callable[[int], Method], batch: Episodes
) -> None:
    found = [kept(build(steps), batch) for steps in (2, 3, 4, 5)]
    first = [b - a for a, b in itertools.pairwise(found)]
    assert first[0] > 0
    assert [b - a for a, b in itertools.pairwise(first)] == [0, 0]


@pytest.mark.parametrize("build", (CONSTANT | LINEAR).values(), ids=(CONSTANT | LINEAR).keys())
def test_a_chunk_keeps_as_much_whatever_the_tasks_of_a_step(
    build: Callable[[int], Method], batch: Episodes
) -> None:
    method, step = build(2), episodes(tasks=6, side=16)
    whole, more, part = kept(method, batch), kept(method, step), kept(method, next(step.split(2)))
    # The chunk's images and labels are views of the step's, which are there before and after.
    data = sum(t.nbytes for t in (step.images, step.support_labels, step.query_labels))
    assert part - whole <= data
    assert more - whole > 4 * (part - whole)  # a graph of all tasks would be seen
