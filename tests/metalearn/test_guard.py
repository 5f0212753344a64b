"""The guard against values that are no numbers names the upper step and the tasks of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import metalearn.training.failures
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.errors import NotFiniteError
from metalearn.methods import Model, ProtoNet
from metalearn.methods.method import Watch
from metalearn.tasks.episodes import Episodes, Sampler
from metalearn.training.failures import episodes_named
from metalearn.training.state import Training

CONFIG = TrainConfig().replace(
    method="memory-reduced",
    filters=4,
    tasks_per_step=4,
    steps=8,
    train=EpisodeShape(way=3),
    device="cpu",
    threads=1,
)


def training(**changes: Any) -> Training:
    return Training(CONFIG.replace(**changes), torch.device("cpu"))


def poison(monkeypatch: pytest.MonkeyPatch, *bad: int) -> None:
    """Images of these episodes are NaN, whichever others they are drawn with."""
    honest = Sampler.sample

    def sample(sampler: Sampler, start: int, count: int) -> Episodes:
        found = honest(sampler, start, count)
        for index in bad:
            if start <= index < start + count:
                found.images[index - start] = torch.nan
        return found

    monkeypatch.setattr(Sampler, "sample", sample)


def blamed(subject: Training, **changes: Any) -> str:
    """What is said of training episodes 4 to 7 after a failure of theirs."""
    given = {"method": subject.method, "scaler": subject.scaler} | changes
    drawn, weight = torch.get_rng_state(), next(subject.model.parameters())
    weight.grad = torch.ones_like(weight)
    with (
        pytest.raises(NotFiniteError) as raised,
        episodes_named(model=subject.model, sampler=subject.sampler, episodes=range(4, 8), **given),
    ):
        raise NotFiniteError("the loss is nan.")
    # the state that is kept of the failure is that of the failure
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    return str(raised.value).removeprefix("the loss is nan. ")


def test_the_first_loss_that_is_no_number_is_named() -> None:
    subject = training(tasks_per_step=2)
    subject.step = 6
    subject.losses[:6] = 1.0
    assert subject.look(4) == {"loss": 1.0}
    subject.losses[4] = torch.nan
    subject.losses[5] = torch.inf
    with pytest.raises(NotFiniteError, match=r"nan at upper step 5: low.* 8 to 9 are finite"):
        subject.look(4)
    subject.losses[4] = 1.0
    with pytest.raises(NotFiniteError, match=r"inf at upper step 6: low.* 10 to 11 are finite"):
        subject.look(4)
    with torch.no_grad():  # as a step on such a loss leaves them
        next(subject.model.parameters())[0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"no longer finite, so that none of .* 10 to 11 is"):
        subject.look(4)


def test_a_residual_that_is_no_number_is_that_of_a_task() -> None:
    subject = training()
    subject.advance()
    subject.advance()
    subject.certificates._residual[6] = torch.nan
    with pytest.raises(
        NotFiniteError, match=r"residual is nan at .* step 2, of .* episodes \[6\]:"
    ):
        subject.look(2)


@pytest.mark.parametrize("tasks_per_chunk", [None, 2])
def test_the_task_that_stops_a_step_is_named(
    tasks_per_chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = training(tasks_per_chunk=tasks_per_chunk)
    subject.advance()
    poison(monkeypatch, 6)
    # running averages move in the forward pass, before it is known that the step can't be taken
    before = {name: value.clone() for name, value in subject.model.named_parameters()}
    drawn = torch.get_rng_state()
    with pytest.raises(
        NotFiniteError,
        match=r"lower objective of task [02] is not finite .* One by one, with the weights as they "
        r"are, these of training episodes 4 to 7 are not finite: 6 \(the lower level or its adjo",
    ):
        subject.advance()
    assert subject.certificates.seen == 4
    assert torch.equal(torch.get_rng_state(), drawn)
    after = dict(subject.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


class _Kinked(ProtoNet):
    """Of tasks that are NaN the loss is 0 and its gradient none; and it draws."""

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Tensor:
        torch.rand(1)
        if not bool(episodes.images.isnan().any()):
            return ProtoNet.loss(self, model, episodes, watch=watch)
        return (next(model.parameters()) * 0).sum().sqrt()


def test_what_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = training(method="protonet", train=EpisodeShape(way=5))
    poison(monkeypatch, 4, 7, 8)
    assert "these of training episodes 4 to 7 are not finite: 4 (loss), 7 (loss)." in blamed(
        subject
    )
    said = blamed(subject, method=_Kinked())
    assert said.endswith("are not finite: 4 (hypergradient), 7 (hypergradient).")
    # a scaler leaves such steps out, and lowers its scale
    said = blamed(subject, method=_Kinked(), scaler=torch.amp.GradScaler("cpu"))
    assert said.endswith("training episodes 4 to 7 are finite.")


def test_nothing_hides_what_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(metalearn.training.failures, "accumulate", full)
    said = blamed(training())
    assert (
        said == "One by one, training episodes 4 to 7 ended in RuntimeError: can't allocate memory"
    )


def test_other_errors_pass_as_they_are() -> None:
    subject = training()
    with (
        pytest.raises(ValueError, match=r"^other$"),
        episodes_named(subject.method, subject.model, subject.sampler, range(4, 8), scaler=None),
    ):
        raise ValueError("other")
