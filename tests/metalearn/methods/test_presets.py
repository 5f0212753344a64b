"""The presets: usable, described by the documentation, and honest about their variant."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hypergrad import CG, GradientDescent, Implicit, Unrolled
from metalearn.errors import ConfigError
from metalearn.methods import LinearHeads, Maml, Method, Model, Reptile
from metalearn.methods.head import cross_entropy
from metalearn.methods.lower import Lower
from metalearn.methods.presets import PRESETS, Preset, preset
from metalearn.tasks.episodes import Episodes
from tests.metalearn.methods.subjects import accumulate_batch, episodes, ignore, model

PAGE = Path(__file__).parents[3] / "docs" / "methods.md"


def descended(method: Method, subject: Model, batch: Episodes) -> Tensor:
    """What a small enough step of the method lowers."""
    if isinstance(method, Reptile):
        # No function has Reptile's step as its gradient; to first order in the lower step size it
        # is that of the loss of weights that are not adapted, on all of a task's images.
        still = dataclasses.replace(
            method,
            lower=dataclasses.replace(
                method.lower, test=GradientDescent(max_steps=0, step_size=1.0)
            ),
        )
        return cross_entropy(still.predict(subject, batch), batch.query_labels).mean()
    return method.loss(subject, batch, watch=ignore).detach()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_a_step_that_lowers_its_loss(name: str) -> None:
    one = preset(name)
    assert isinstance(one.method, Method)
    subject, batch = model(one.method), episodes()
    before = descended(one.method, subject, batch)
    accumulate_batch(one.method, subject, batch)
    # Small enough for a first-order expansion, 1 % of the weights' size.
    with torch.no_grad():
        grads = [p.grad for p in subject.parameters() if p.grad is not None]
        size = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        for parameter in subject.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad / size, alpha=1e-2)
    assert descended(one.method, subject, batch) < before
    answers = one.method.predict(subject, batch)
    assert answers.isfinite().all()


def test_the_documentation_lists_every_preset_with_its_variant() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\| ([^|]+) \|$", PAGE.read_text(), flags=re.MULTILINE)
    listed = {name: variant for name, _, variant in rows if name in PRESETS}
    assert listed == {name: one.variant for name, one in PRESETS.items()}
    for name, row, _ in rows:
        if name in PRESETS:
            one = PRESETS[name]
            upper = "SGD" if one.optimiser == "sgd" else "Adam"
            tasks = f"{one.tasks_per_step} task{'s' if one.tasks_per_step > 1 else ''}"
            assert f"| {upper} {one.learning_rate:g}, {tasks} |" in row


def test_departures_make_the_variant() -> None:
    for one in PRESETS.values():
        assert one.variant == ("best effort" if one.departures else "as published")
        assert one.source


def test_the_papers_numbers() -> None:
    """Restated from the published settings, not read back from the code."""
    lower = PRESETS["memory-reduced"].method
    assert isinstance(lower, LinearHeads)
    assert lower.lower.by == GradientDescent(max_steps=20, step_size=0.05)
    assert lower.lower.adjoint == Implicit(CG(rtol=0.0, max_steps=20, check_every=None))
    itd = PRESETS["itd-bio"].method
    assert isinstance(itd, LinearHeads)
    assert itd.lower.by == lower.lower.by
    assert itd.lower.adjoint == Unrolled()
    assert PRESETS["itd-bio"].learning_rate == 1e-4
    assert PRESETS["maml-baseline"].method == Maml(
        lower=Lower(by=GradientDescent(max_steps=3, step_size=0.5), adjoint=Unrolled())
    )
    assert PRESETS["maml-baseline"].learning_rate == 5e-3


def test_refuses_a_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match="preset was given as 'mamml': it is one of memory-red"):
        preset("mamml")


def test_a_preset_says_what_it_is() -> None:
    one = preset("maml")
    assert isinstance(one, Preset)
    assert "by=GradientDescent(max_steps=5, step_size=0.01, " in str(one.method)
