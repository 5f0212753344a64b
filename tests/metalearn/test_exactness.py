"""The recorded distance from the exact hypergradient is true, and recording it changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import metalearn.training.state
from hypergrad import CG, Detached, GradientDescent, Implicit, Unrolled
from metalearn.backbones import ResNet12
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError, NotFiniteError, UnsolvedWarning
from metalearn.methods import LinearHeads, Model, ProtoNet
from metalearn.methods.lower import Lower, exact, paper
from metalearn.methods.presets import preset
from metalearn.training import reference as subject_module
from metalearn.training.dry_run import measured_error
from metalearn.training.reference import Exactness, exact_of, exactness
from metalearn.training.state import Training
from tests.metalearn.methods import subjects

DESCENT = GradientDescent(max_steps=4, step_size=0.5)
METHODS = {
    "memory-reduced": Lower(by=DESCENT, adjoint=Implicit(CG(rtol=0.0, max_steps=2))),
    "itd-bio": Lower(by=DESCENT, adjoint=Unrolled()),
    "first order": Lower(by=DESCENT, adjoint=Detached()),
}


def heads(lower: Lower) -> LinearHeads:
    return LinearHeads(lower=lower, l2=0.3)


@pytest.mark.parametrize("name", METHODS)
def test_the_error_is_that_against_ever_more_unrolled_steps(name: str) -> None:
    """The limit of 200 differentiated steps is derived in methods/test_heads.py, within 1e-9."""
    method = heads(METHODS[name])
    model, batch = subjects.model(method), subjects.episodes()
    many = Lower(by=dataclasses.replace(DESCENT, max_steps=200), adjoint=Unrolled())
    true = subjects.found(heads(many), model, batch)
    ours = subjects.found(method, model, batch)
    found = exactness(method, model, batch)
    assert found is not None
    assert found.error == pytest.approx(((ours - true).norm() / true.norm()).item(), abs=1e-8)
    cosine = torch.nn.functional.cosine_similarity(ours, true, dim=0).item()
    assert found.cosine == pytest.approx(cosine, abs=1e-8)
    assert 1e-3 < found.error < 1
    assert all(weight.grad is None for weight in model.parameters())


def test_a_solved_lower_level_has_the_error_of_float32() -> None:
    method = heads(exact())
    model, batch = subjects.model(method).float(), subjects.episodes()
    single = dataclasses.replace(batch, images=batch.images.float())
    found = exactness(method, model, single)
    assert found is not None
    # Both levels end at 3e-5, amplified by the condition of the heads, below 10, at most twice.
    assert 1e-8 < found.error < 2 * 10 * 3e-5
    assert found.cosine == pytest.approx(1, abs=1e-6)


def test_it_draws_nothing_and_moves_nothing() -> None:
    """A backbone that drops and stores: whether it is measured decides nothing that comes after."""
    generator = torch.Generator().manual_seed(0)
    backbone = ResNet12(
        filters=(4, 4, 4, 4),
        channels=1,
        size=16,
        block=1,
        drop_rate=0.5,
        normalisation="stored",
        generator=generator,
    )
    model = Model(backbone, {}, precision="bfloat16")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    batch = subjects.episodes(side=16)
    single = dataclasses.replace(batch, images=batch.images.float())
    found = exactness(heads(paper()), model, single)
    assert found is not None
    assert found.error > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (model.training, model.precision) == (True, "bfloat16")


def test_where_there_is_no_one_minimiser_nothing_is_measured() -> None:
    for name in ("anil", "maml", "reptile", "r2d2", "imaml"):
        assert exact_of(preset(name).method) is None
    assert exactness(ProtoNet(), subjects.model(ProtoNet()), subjects.episodes()) is None


def test_a_reference_that_is_not_solved_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    method = heads(METHODS["itd-bio"])
    poor = dataclasses.replace(method, lower=paper(steps=1, adjoint_steps=1))
    monkeypatch.setattr(subject_module, "exact_of", lambda method: poor)
    with pytest.warns(UnsolvedWarning, match="was not solved to its tolerance"):
        exactness(method, subjects.model(method), subjects.episodes())


SMALL = TrainConfig().replace(
    filters=4, tasks_per_step=2, steps=3, validation_episodes=2, device="cpu", threads=1
)


def trained(**changes: Any) -> tuple[Training, dict[str, float], list[Tensor]]:
    training = Training(SMALL.replace(**changes), torch.device("cpu"))
    found = {}
    for _ in range(SMALL.optimisation.steps):
        training.advance()
        found = training.exactness()
    return training, found, [weight.detach() for weight in training.model.parameters()]


def test_training_records_it_where_asked_and_goes_on_the_same() -> None:
    _, nothing, plain = trained(method="memory-reduced")
    training, found, measured = trained(method="memory-reduced", hypergradient_error=True)
    assert nothing == {}
    assert all(torch.equal(a, b) for a, b in zip(plain, measured, strict=True))
    # the first tasks after those of training: 3 steps of 2
    expected = exactness(training.method, training.model, training.sampler.sample(6, 2))
    assert expected is not None
    assert found == {
        "hypergradient_error": expected.error,
        "hypergradient_cosine": expected.cosine,
    }
    assert trained(method="protonet", hypergradient_error=True)[1] == {}


@pytest.mark.parametrize("found", [(torch.nan, 1.0), (torch.inf, 1.0), (0.1, torch.nan)])
def test_an_error_that_is_no_number_is_refused(
    found: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.replace(method="memory-reduced", hypergradient_error=True)
    training = Training(config, torch.device("cpu"))
    planted = Exactness(error=found[0], cosine=found[1])
    monkeypatch.setattr(metalearn.training.state, "exactness", lambda *given, **named: planted)
    with pytest.raises(NotFiniteError, match=r"is (nan|inf|0\.1), its cosine .*after upper step 0"):
        training.exactness()


def test_the_plan_says_whether_it_is_measured() -> None:
    for changes, expected in (
        ({}, "not measured (--hypergradient-error)"),
        ({"hypergradient_error": True}, "measured at each validation"),
        ({"hypergradient_error": True, "method": "protonet"}, "not defined"),
    ):
        config = SMALL.replace(**changes)
        assert measured_error(Training(config, torch.device("cpu"))).startswith(expected)


def test_float16_is_refused() -> None:
    with pytest.raises(ConfigError, match="only a scaled loss keeps"):
        TrainConfig().replace(hypergradient_error=True, precision="float16")
