"""Own modules as backbones: tasks stay apart, and what can't be right is refused by type."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hypergrad.errors import HypergradError, InputError
from metalearn.backbones import PerTask
from metalearn.config.choices import Normalisation
from metalearn.errors import ConfigError
from metalearn.methods import LinearHeads, Method, Model, RidgeHeads
from metalearn.methods.lower import paper
from tests.metalearn import own_backbones as own
from tests.metalearn.methods.subjects import (
    SIDE,
    SUPPORT,
    accumulate_batch,
    close,
    episodes,
    model,
)
from tests.metalearn.methods.test_accumulate import METHODS

HEADS = LinearHeads(lower=paper(steps=3, adjoint_steps=3), l2=0.3)
ADAPT_ALL = ("maml", "fomaml", "imaml", "reptile")

MODULES: dict[str, Callable[[], nn.Module]] = {
    "resnet": own.resnet,
    "grouped": own.grouped,
    "unused": own.Unused,
    "unused and frozen": lambda: last_frozen(own.Unused()),
    "lstm": lambda: own.Rows(SIDE),
    "centred": own.Centred,
    "part": lambda: half_frozen(own.resnet()),
    "given in eval": lambda: own.resnet().eval(),
}


def half_frozen(net: nn.Module) -> nn.Module:
    next(net.children()).requires_grad_(False)
    return net


def last_frozen(net: own.Unused) -> nn.Module:
    net.classifier.requires_grad_(False)
    return net


def wrapped(net: nn.Module, normalisation: Normalisation = "transductive") -> PerTask:
    return PerTask(net, channels=1, size=SIDE, normalisation=normalisation)


def subject(method: Method, net: nn.Module, mode: Normalisation = "transductive") -> Model:
    """In float64, with its weights moved so that nothing is small by an accident of the start."""
    torch.manual_seed(0)
    return model(method, wrapped(net, mode))


def step(method: Method, model: Model, size: int) -> Tensor:
    """The gradient of one step in chunks of this size, in float64."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    accumulate_batch(method, model, episodes(), size=size)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("method", METHODS)
def test_chunks_give_the_gradient_of_the_whole(name: str, method: str) -> None:
    torch.manual_seed(0)
    one = subject(METHODS[method], MODULES[name]())
    if name == "unused" and method in ("maml", "fomaml", "reptile"):
        with pytest.raises(InputError, match="does not depend on .*classifier.weight"):
            step(METHODS[method], one, 3)
        return
    frozen = {n: p.clone() for n, p in one.named_parameters() if not p.requires_grad}
    before = {n: b.clone() for n, b in one.named_buffers()}
    whole = step(METHODS[method], one, 3)
    assert bool(whole.any())
    # `close` allows 1e-10; two layers of batch statistics may each double a relative error
    assert close(step(METHODS[method], one, 1), whole, condition=2**2)
    assert close(step(METHODS[method], one, 2), whole, condition=2**2)
    assert all(torch.equal(p, frozen[n]) for n, p in one.named_parameters() if n in frozen)
    assert all(p.grad is None for p in one.parameters() if not p.requires_grad)
    assert all(torch.equal(b, before[n]) for n, b in one.named_buffers())
    logits = METHODS[method].predict(one.eval(), episodes())
    alone = [METHODS[method].predict(one, task) for task in episodes().split(1)]
    assert close(torch.cat(alone), logits, condition=2**2)


@pytest.mark.parametrize("name", ["resnet", "unused", "dropping"])
def test_streamed_and_recomputed_gradients_are_the_same(name: str) -> None:
    net = own.Dropping() if name == "dropping" else MODULES[name]()
    plain = subject(HEADS, net)
    if name == "dropping":  # by parts, so that all three draw in the same order
        plain.backbone.mixes = True  # type: ignore[assignment]
    streamed, recomputed = copy.deepcopy(plain), copy.deepcopy(plain)
    streamed.streamed = True
    recomputed.backbone.recompute = True  # type: ignore[assignment]
    expected = step(HEADS, plain, 2)
    assert close(step(HEADS, streamed, 2), expected, condition=2**2)
    assert close(step(HEADS, recomputed, 2), expected, condition=2**2)


@pytest.mark.parametrize("way", ["streamed", "recompute"])
def test_running_statistics_move_once_for_each_part_whatever_the_chunks(way: str) -> None:
    plain = subject(HEADS, own.resnet(), "stored")
    other = copy.deepcopy(plain)
    other.streamed = way == "streamed"
    other.backbone.recompute = way == "recompute"  # type: ignore[assignment]
    assert close(step(HEADS, other, 1), step(HEADS, plain, 3), condition=2**2)
    norms = [part for part in plain.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked or 0) == 3 * 2 for norm in norms)
    for ours, theirs in zip(other.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)
    # in testing they are what normalises, so that one picture has the features of many
    plain.eval()
    images = episodes().images
    one = plain.features(images[:1, :1], 1)[0, 0]
    assert close(one, plain.features(images, SUPPORT)[0, 0])


def test_parts_given_in_eval_stay_in_it() -> None:
    net = own.resnet()
    first = net[0]  # type: ignore[index]
    first.eval()
    found = wrapped(net, "stored").train()
    assert not first.norm.training
    assert net[1].norm.training  # type: ignore[index]
    assert not found.eval().net[1].norm.training  # type: ignore[index]
    assert wrapped(own.resnet().eval(), "group").statistics == "stored statistics as given"
    assert wrapped(own.resnet(), "stored").statistics == "stored"
    assert wrapped(own.resnet()).statistics == wrapped(own.Centred()).statistics == "transductive"
    assert wrapped(own.grouped(), "stored").statistics == "each image by itself"


def test_transductive_statistics_are_the_same_in_testing() -> None:
    found, images = wrapped(own.resnet()).double(), episodes().images
    training = found(images, SUPPORT)
    assert torch.equal(found.eval()(images, SUPPORT), training)


class Coupled(nn.Module):
    """A `Backbone` by its interface, whose BatchNorm sees all tasks."""

    features, recompute = 4, False

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(SIDE**2, 4), nn.BatchNorm1d(4)

    def forward(self, images: Tensor, support: int) -> Tensor:
        flat: Tensor = self.norm(self.inner(images.flatten(0, 1).flatten(1)))
        return flat.reshape(*images.shape[:2], 4)


def test_a_backbone_in_which_tasks_meet_is_refused_with_the_remedies() -> None:
    net = Coupled()
    one = Model(net, {}).double()
    with pytest.raises(ConfigError, match=r"backbone's norm is a BatchNorm1d .* PerTask.*eval\(\)"):
        accumulate_batch(HEADS, one, episodes())
    with pytest.raises(ConfigError, match="in which tasks meet"):
        model(METHODS["maml"], net)(episodes().images[0])
    one.eval()
    assert bool(step(HEADS, one, 1).any())
    one.train()
    with pytest.raises(ConfigError, match="GroupNorm"):
        step(HEADS, one, 1)


@pytest.mark.parametrize(
    ("net", "mode", "message"),
    [
        (own.resnet, "group", r"2 layers such as 0.norm \(BatchNorm2d\).*eval\(\).*GroupNorm"),
        (
            lambda: nn.Sequential(
                nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4, track_running_stats=False)
            ),
            "stored",
            "2 keeps no running statistics",
        ),
        (own.Outside, "transductive", "two answers to the same images from the same torch seed"),
        (own.Counting, "transductive", "changes its buffer calls"),
        (own.Pair, "transductive", r"gave a tuple for 5 images: .*\(N, D\)"),
        (nn.Identity, "transductive", r"torch.float32 of shape \(5, 1, 6, 6\)"),
        (lambda: nn.Conv2d(3, 4, 3), "transductive", "failed on images of shape .* RuntimeError"),
        (
            lambda: nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten()),
            "transductive",
            "changes its buffer 0.running_mean",
        ),
    ],
)
def test_modules_that_can_be_no_backbone(
    net: Callable[[], nn.Module], mode: Normalisation, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        wrapped(net(), mode)


@pytest.mark.parametrize("name", ADAPT_ALL)
def test_whole_networks_are_not_adapted_through_draws_or_stored_statistics(name: str) -> None:
    method = METHODS[name]
    with pytest.raises(ConfigError, match=r"Dropout\(p=0.3.* must not draw random numbers"):
        step(method, subject(method, own.Dropping()), 1)
    # another layer that draws is noticed by the draw
    lstm = nn.LSTM(SIDE, 4, num_layers=2, dropout=0.5, batch_first=True)
    drawing = own.Rows(SIDE)
    drawing.inner = lstm
    with pytest.raises(HypergradError, match="draws random numbers"):
        step(method, subject(method, drawing), 1)
    still = own.Dropping()
    still.drop.eval()
    assert bool(step(method, subject(method, still), 1).any())
    with pytest.raises(ConfigError, match="normalisation stored was given to a method"):
        step(method, subject(method, own.resnet(), "stored"), 1)


def test_unused_layers_get_a_gradient_of_zero_and_frozen_ones_none() -> None:
    one = subject(HEADS, own.Unused())
    step(HEADS, one, 2)
    net = one.backbone.net
    assert isinstance(net, own.Unused)
    assert net.classifier.weight.grad is not None
    assert not net.classifier.weight.grad.any()
    assert net.conv.weight.grad is not None
    assert net.conv.weight.grad.any()


def test_a_frozen_backbone_leaves_the_methods_own_variables() -> None:
    method = RidgeHeads(l2=0.3, sharpness=3.0)
    one = subject(method, own.frozen())
    step(method, one, 2)
    learned = {name for name, value in one.named_parameters() if value.grad is not None}
    assert learned == {"own.log_scale", "own.sharpness"}


def test_the_structure_tells_modules_apart() -> None:
    digests = [
        wrapped(net).structure
        for net in (
            own.grouped(),
            own.frozen(),
            own.resnet(),
            own.resnet(width=5),
            own.resnet().eval(),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert wrapped(own.grouped()).structure == digests[0]
    # the trial leaves the module and torch's generator as they were
    net, state = own.resnet(), torch.get_rng_state()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    wrapped(net, "stored")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_state_that_is_no_tensor_is_refused_with_the_remedy() -> None:
    class Counted(nn.Flatten):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    with pytest.raises(ConfigError, match="_extra_state is a dict: .* keep it outside"):
        PerTask(Counted(), channels=1, size=4)
