"""`--wide-heads`: float64 reaches the tolerance at which float32 heads stagnate."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from hypergrad import Certificate, Status
from metalearn.cli import main
from metalearn.cli.compare import ensure
from metalearn.config.choices import MethodName
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError
from metalearn.methods import LinearHeads, Model
from metalearn.methods.overrides import describe
from metalearn.tasks.episodes import Episodes
from metalearn.training.step import accumulate


class Large(nn.Module):
    """The pixels times a learned number: large features, and so a large condition number."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.features, self.recompute = 24, False
        self.scale = nn.Parameter(torch.tensor(size))

    def forward(self, images: Tensor, support: int) -> Tensor:
        return self.scale * images.flatten(2)


def heads(*, wide: bool) -> LinearHeads:
    method = TrainConfig().replace(wide_heads=wide).preset().method
    assert isinstance(method, LinearHeads)
    return method


def hypergradient(*, wide: bool, size: float = 30.0) -> tuple[Tensor, Certificate]:
    """The gradient of the features' size, which makes the condition number about 10^6."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(2, 15, 1, 4, 6, generator=draw)
    labels = torch.arange(5).repeat(2, 3)
    episodes = Episodes(
        images=images,
        support_labels=labels[:, :5],
        query_labels=labels[:, 5:],
        way=5,
        shot=1,
        query=2,
    )
    model = Model(Large(size), {})
    found: list[Certificate] = []
    accumulate(heads(wide=wide), model, [episodes], tasks=2, watch=found.append)
    (gradient,) = (p.grad for p in model.parameters())
    assert gradient is not None
    return gradient, found[0]


def test_float64_ends_what_float32_leaves_stagnated() -> None:
    narrow, before = hypergradient(wide=False)
    wide, after = hypergradient(wide=True)
    assert bool((before.adjoint.status == Status.STAGNATED).any())
    assert bool(after.adjoint.converged.all())
    assert bool(after.lower_converged is not None and after.lower_converged.all())
    assert wide.dtype == narrow.dtype == torch.float32
    assert torch.isfinite(wide).all()


def test_what_is_learned_of_a_support_has_the_features_precision() -> None:
    model = Model(Large(1.0), {})
    images = torch.randn(5, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    method = heads(wide=True)
    adapted = method.adapt(model, images, torch.arange(5), way=5)
    assert adapted.values["head"].dtype == torch.float32
    answers = method.answer(model, adapted.values, images)
    assert answers.argmax(-1).tolist() == list(range(5))


@pytest.mark.parametrize("method", ["maml", "r2d2", "protonet"])
def test_methods_without_softmax_heads_refuse(method: MethodName) -> None:
    with pytest.raises(ConfigError, match="wide_heads was given with .* no softmax head"):
        TrainConfig().replace(method=method, wide_heads=True)


def test_older_records_name_the_same_method() -> None:
    assert "wide_heads" not in describe(TrainConfig().preset())
    wide = TrainConfig().replace(wide_heads=True).preset()
    assert "wide_heads=True" in describe(wide)
    assert "wide_heads = True" in wide.departures


def test_a_run_is_reproduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = TrainConfig().replace(
        run=tmp_path / "run",
        wide_heads=True,
        method="anil",  # whose start is learned, in the weights' precision
        train=TrainConfig().test,
        tasks_per_step=2,
        filters=4,
        steps=2,
        validate_every=2,
        validation_episodes=2,
        test_episodes=4,
        device="cpu",
        threads=1,
        tracker="none",
    )
    ensure(asked, console=Console(file=io.StringIO()))
    main(["test", str(tmp_path / "run")])
    assert "reproduced exactly: all 4 episodes" in capsys.readouterr().out
