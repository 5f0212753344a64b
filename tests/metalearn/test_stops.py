"""What ends a run before its time: numbers that are none, and Ctrl-C."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import metalearn.training.state
import metalearn.training.step
from metalearn.cli import main
from metalearn.config.train import TrainConfig
from metalearn.errors import NotFiniteError
from metalearn.runs.folder import Run
from metalearn.training import checkpoint
from metalearn.training.loop import train
from tests.metalearn.commands import SMALL, refused


def test_a_loss_that_is_not_finite_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = metalearn.training.step.upper_step

    def diverging(*arguments: Any, **settings: Any) -> torch.Tensor:
        return honest(*arguments, **settings) * torch.nan

    monkeypatch.setattr(metalearn.training.state, "upper_step", diverging)
    config = TrainConfig().replace(
        run=tmp_path / "run", steps=4, tasks_per_step=1, threads=1, device="cpu"
    )
    said = io.StringIO()
    with pytest.raises(
        NotFiniteError, match=r"the loss is nan at upper step .* lower the learning"
    ):
        train(config, console=Console(file=said))
    run = Run(tmp_path / "run")
    assert not run.finished
    # The state is kept, with the episodes that led to it.
    assert "failed at upper step 4, training episodes 0 to 4" in " ".join(said.getvalue().split())
    tensors, progress = checkpoint.load(run.failure)
    assert progress.step == 4
    assert tensors["losses"].isnan().all()
    assert '"event": "failed"' in (run.folder / "events.jsonl").read_text()


def test_answers_that_are_no_numbers_are_no_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # ProtoNet has no lower level that would notice.
    said = refused(
        [
            "train",
            f"--run={tmp_path / 'run'}",
            *SMALL,
            "--method=protonet",
            "--steps=1",
            "--learning-rate=1e30",
        ],
        capsys,
    )
    assert "of the validation split are NaN or infinite" in said


def test_weights_that_are_not_finite_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["train", f"--run={tmp_path / 'run'}", *SMALL, "--learning-rate=1e30"], capsys)
    assert "NotFiniteError" in said


def test_interrupting_a_run_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(metalearn.training.state, "upper_step", interrupted)
    with pytest.raises(SystemExit) as exit_:
        main(["train", f"--run={tmp_path / 'run'}", *SMALL])
    assert exit_.value.code == 130
    assert "interrupted: a run can be resumed from its last checkpoint" in capsys.readouterr().err
