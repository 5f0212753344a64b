"""Every method alike: chunks, the order of tasks, precision, and what the model refuses."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Certificate, Detached, GradientDescent, Implicit, Unrolled
from metalearn.backbones import Conv4
from metalearn.errors import ConfigError, EpisodeError
from metalearn.methods import (
    ImplicitMaml,
    LinearHeads,
    Maml,
    Method,
    Model,
    Precision,
    ProtoNet,
    Reptile,
    RidgeHeads,
)
from metalearn.methods.lower import Lower
from metalearn.tasks.episodes import Episodes
from metalearn.training.step import accumulate
from tests.metalearn.methods.subjects import accumulate_batch, close, episodes, found, ignore, model

DESCENT = GradientDescent(max_steps=2, step_size=0.3)
IMPLICIT = Lower(by=DESCENT, adjoint=Implicit(CG(rtol=0.0, max_steps=3)))
METHODS: dict[str, Method] = {
    "memory-reduced": LinearHeads(lower=IMPLICIT, l2=0.3),
    "itd-bio": LinearHeads(lower=Lower(by=DESCENT, adjoint=Unrolled()), l2=0.3),
    "anil": LinearHeads(lower=Lower(by=DESCENT, adjoint=Unrolled()), l2=0.0, learn_start=True),
    "maml": Maml(lower=Lower(by=DESCENT, adjoint=Unrolled())),
    "fomaml": Maml(lower=Lower(by=DESCENT, adjoint=Detached())),
    "imaml": ImplicitMaml(lower=IMPLICIT, strength=2.0),
    "reptile": Reptile(lower=Lower(by=DESCENT, adjoint=Detached())),
    "r2d2": RidgeHeads(l2=0.3, sharpness=3.0),
    "protonet": ProtoNet(),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def accumulated(
    method: Method, subject: Model, batch: Episodes, size: int | None
) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    subject.zero_grad(set_to_none=True)
    loss = accumulate_batch(method, subject, batch, size=size)
    parts = [p.grad.flatten() for p in subject.parameters() if p.grad is not None]
    return loss, torch.cat(parts)


@every_method
def test_chunks_add_up_to_the_whole(method: Method) -> None:
    subject, batch = model(method), episodes(tasks=3)
    loss, whole = accumulated(method, subject, batch, None)
    # Two tasks, then one, which counts a third.
    other, chunked = accumulated(method, subject, batch, 2)
    assert close(chunked, whole)
    assert close(other, loss)
    assert not loss.requires_grad
    # A gradient of one chunk alone, or with wrong weights, is another one.
    _, first = accumulated(method, subject, next(batch.split(2)), None)
    assert not close(first, whole, condition=1e6)


@every_method
def test_the_order_of_tasks_does_not_matter(method: Method) -> None:
    subject, batch = model(method), episodes()
    turned = dataclasses.replace(
        batch,
        images=batch.images.flip(0),
        support_labels=batch.support_labels.flip(0),
        query_labels=batch.query_labels.flip(0),
    )
    assert close(found(method, subject, turned), found(method, subject, batch))
    answers = method.predict(subject, batch)
    assert close(method.predict(subject, turned).flip(0), answers)


@every_method
def test_the_order_of_a_tasks_images_does_not_matter(method: Method) -> None:
    subject, batch = model(method), episodes()
    shot = batch.support_labels.shape[1]
    turned = dataclasses.replace(
        batch,
        images=torch.cat((batch.images[:, :shot].flip(1), batch.images[:, shot:].flip(1)), 1),
        support_labels=batch.support_labels.flip(1),
        query_labels=batch.query_labels.flip(1),
    )
    assert close(found(method, subject, turned), found(method, subject, batch))


def test_each_chunk_reports_its_certificate() -> None:
    method = METHODS["memory-reduced"]
    seen: list[Certificate] = []
    accumulate_batch(method, model(method), episodes(tasks=5), watch=seen.append, size=2)
    assert [len(certificate.stationarity) for certificate in seen] == [2, 2, 1]


def test_chunks_of_no_task_are_refused() -> None:
    with pytest.raises(EpisodeError, match="chunks of 0 tasks were asked for"):
        next(episodes().split(0))


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_chunks_must_hold_the_tasks_that_their_weights_are_for(missing: int) -> None:
    method, batch = METHODS["protonet"], episodes(tasks=3)
    chunks = itertools.islice(batch.split(1), 3 - missing)
    tasks = 3 if missing else 2
    with pytest.raises(EpisodeError, match=f"given as {tasks}, but the chunks hold {3 - missing}"):
        accumulate(method, model(method), chunks, tasks=tasks, watch=ignore)


def test_a_scaler_scales_what_backward_sees() -> None:
    method = METHODS["maml"]
    subject, batch = model(method), episodes()
    loss, plain = accumulated(method, subject, batch, None)
    subject.zero_grad(set_to_none=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert close(accumulate_batch(method, subject, batch, scaler=scaler), loss)
    parts = [p.grad.flatten() for p in subject.parameters() if p.grad is not None]
    assert close(torch.cat(parts), 8 * plain)


def convolutional(method: Method, precision: Precision) -> Model:
    generator = torch.Generator().manual_seed(0)
    backbone = Conv4(filters=8, channels=1, size=16, generator=generator)
    own = method.variables(features=backbone.features, way=3, generator=generator)
    return Model(backbone, own, precision=precision)


def single(*, tasks: int = 3) -> Episodes:
    batch = episodes(tasks=tasks, side=16)
    return dataclasses.replace(batch, images=batch.images.float())


@pytest.mark.parametrize("name", ["memory-reduced", "itd-bio", "anil", "r2d2", "protonet"])
def test_bfloat16_changes_the_backbone_only(name: str) -> None:
    method, batch = METHODS[name], single()
    seen: list[Certificate] = []
    losses, gradients = [], []
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        subject = convolutional(method, precision)
        products: list[torch.dtype] = []
        subject.backbone.convs[3].register_forward_hook(  # type: ignore[union-attr, index]
            lambda _, __, output, products=products: products.append(output.dtype)
        )
        loss = accumulate_batch(method, subject, batch, watch=seen.append)
        assert products == [getattr(torch, precision)]
        assert loss.dtype == method.predict(subject, batch).dtype == torch.float32
        parts = [p.grad.flatten() for p in subject.parameters() if p.grad is not None]
        assert all(part.dtype == torch.float32 for part in parts)
        losses.append(loss)
        gradients.append(torch.cat(parts))
    assert all(certificate.stationarity.dtype == torch.float32 for certificate in seen)
    # bfloat16 rounds to 2^-8; a loss of size 1 moves, but by no more than a tenth.
    assert 0 < abs(losses[1] - losses[0]) < 0.1 * losses[0]
    assert (gradients[1] - gradients[0]).norm() < 0.5 * gradients[0].norm()


@pytest.mark.parametrize("name", ["maml", "fomaml", "imaml", "reptile"])
def test_whole_networks_are_adapted_in_float32(name: str) -> None:
    method, batch = METHODS[name], single()
    with pytest.raises(ConfigError, match="precision bfloat16 .* use float32"):
        method.loss(convolutional(method, "bfloat16"), batch, watch=ignore)


def test_float16_gradients_come_through_a_scaler() -> None:
    """A loss scaled by 2^10 and unscaled gives the gradient that float32 gives, to float16."""
    method, batch = METHODS["memory-reduced"], single()
    wide = convolutional(method, "float32")
    accumulate_batch(method, wide, batch)
    narrow = convolutional(method, "float16")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    accumulate_batch(method, narrow, batch, scaler=scaler)
    for ours, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        # float16 rounds to 2^-11, four blocks deep, forward and backward.
        assert (ours.grad / 2**10 - theirs.grad).norm() < 0.1 * theirs.grad.norm()


class NoModule:
    """Has a backbone's attributes, but nothing to learn."""

    features = 4
    recompute = False

    def __call__(self, images: Tensor, support: int) -> Tensor:
        return images.flatten(2)[..., :4]


def test_the_model_refuses_what_has_no_parameters() -> None:
    with pytest.raises(ConfigError, match="the backbone is a NoModule: give an nn.Module"):
        Model(NoModule(), {})
