"""A run that was stopped, or killed, goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import metalearn.training.loop
from metalearn.cli import main
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.data import Identity
from metalearn.errors import RunError
from metalearn.methods import presets
from metalearn.runs.folder import Run
from metalearn.training import checkpoint
from metalearn.training.state import Training
from tests.metalearn.forked import Forked
from tests.metalearn.kills import Moment, differences, interrupted

SMALL = [
    "--steps=12",
    "--validate-every=4",
    "--checkpoint-every=3",
    "--validation-episodes=20",
    "--test-episodes=20",
    "--filters=4",
    "--tasks-per-step=2",
    "--train.way=5",
    "--threads=1",
    "--device=cpu",
    "--tracker=none",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    main(["train", f"--run={folder}", *SMALL])
    return folder


def untimed(run: Path) -> list[dict[str, Any]]:
    """The metrics but for the seconds."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in Run(run).metrics()]


def same(run: Path, whole: Path) -> None:
    """Metrics, weights and result are those of the whole run, bit by bit."""
    assert untimed(run) == untimed(whole)
    found, expected = Run(run).weights(), Run(whole).weights()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    found_result, expected_result = Run(run).result(), Run(whole).result()
    for name in ("accuracy", "per_episode", "certificate", "validation", "best_step"):
        assert getattr(found_result, name) == getattr(expected_result, name)


def events(run: Path) -> list[str]:
    lines = (run / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def start(run: Path, *arguments: str) -> Forked:
    """`metalearn train` in a process of its own."""
    return Forked("train", *arguments, said=run.with_suffix(".log"))


def wait_for(path: Path, process: Forked) -> None:
    """Until the file is there; fails with what the process said if it ends without."""
    deadline = time.monotonic() + 120
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate(timeout=60))
        time.sleep(0.005)


def test_a_signal_saves_and_ends_cleanly(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, f"--run={run}", *SMALL)
    try:
        wait_for(run / "checkpoint.safetensors", process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    goes_on(process.returncode, said.decode(), signal.SIGTERM, run, whole)


def test_so_does_an_interrupt(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, honest = tmp_path / "run", Training.advance

    def signalled(training: Training, *stop: Any) -> None:
        honest(training, *stop)
        if training.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", signalled)
        with pytest.raises(SystemExit) as exit_:
            main(["train", f"--run={run}", *SMALL])
    goes_on(exit_.value.code, capsys.readouterr().err, signal.SIGINT, run, whole)


def goes_on(code: Any, said: str, number: signal.Signals, run: Path, whole: Path) -> None:
    """A run ended by a signal said so, and leads to the run that nothing happened to."""
    said = " ".join(said.split())
    assert code == 128 + number, said
    assert f"stopped: {number.name} after" in said
    assert f"metalearn train --resume {run}" in said
    assert not (run / "result.json").exists()
    main(["train", f"--resume={run}"])
    same(run, whole)
    assert events(run) == ["started", "stopped", "resumed", "finished"]


def test_a_signal_during_the_test_loses_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, honest = tmp_path / "run", metalearn.training.loop._Job._test

    def signalled(job: Any, between: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return honest(job, between)

    with monkeypatch.context() as patch:
        patch.setattr(metalearn.training.loop._Job, "_test", signalled)
        with pytest.raises(SystemExit) as exit_:
            main(["train", f"--run={run}", *SMALL, "--checkpoint-every=5"])
    assert exit_.value.code == 128 + signal.SIGTERM
    assert "SIGTERM after 12 upper steps" in " ".join(capsys.readouterr().err.split())
    main(["train", f"--resume={run}"])
    same(run, whole)


def test_other_data_or_another_meaning_is_not_gone_on_with(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            metalearn.training.loop, "identity", lambda config: Identity("glyphs", "0" * 64)
        )
        assert "was made with other data: SHA-256" in refused(
            ["train", f"--resume={stopped}"], capsys
        )
    patched = dataclasses.replace(presets.PRESETS["memory-reduced-exact"], learning_rate=1.0)
    monkeypatch.setitem(presets.PRESETS, "memory-reduced-exact", patched)
    assert "now means Preset(" in refused(["train", f"--resume={stopped}"], capsys)


def test_a_run_killed_again_and_again_is_resumed_bit_by_bit(whole: Path, tmp_path: Path) -> None:
    """As `python -m tests.metalearn.kills` does at larger size."""
    run = tmp_path / "run"
    killed = interrupted(run, SMALL, [Moment(0, 0.0), Moment(3, 0.02)], partial(start, run))
    assert killed
    same(tmp_path / "run", whole)
    assert differences(tmp_path / "run", whole) == []


def test_one_bit_is_a_difference(whole: Path, tmp_path: Path) -> None:
    other = shutil.copytree(whole, tmp_path / "other")
    weights = Run(whole).weights()
    name = next(iter(weights))
    weights[name] = torch.nextafter(weights[name], weights[name] + 1)
    Run(other).write_weights(weights, Run(whole).card())
    metrics = (whole / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(metrics.replace('"failed": 0.0', '"failed": 1e-300', 1))
    result = Run(whole).result()
    Run(other).write_result(dataclasses.replace(result, best_step=result.best_step + 1))
    assert differences(other, whole) == ["metrics", "weights", "best_step"]


def test_every_step_can_be_the_last_one_before_a_kill(tmp_path: Path) -> None:
    config = TrainConfig().replace(
        steps=3, filters=4, tasks_per_step=2, train=EpisodeShape(way=3), validation_episodes=4
    )
    device = torch.device("cpu")
    whole = Training(config, device)

    key = checkpoint.RunKey(config="c", configured="m", backbone="b", data="d")

    def save(training: Training, name: str) -> Path:
        path = tmp_path / name
        checkpoint.save(path, *training.state(key=key, origin={}, metrics=0, seconds=0.0))
        return path

    paths = []
    for step in range(config.optimisation.steps):
        whole.advance()
        whole.validate()
        paths.append(save(whole, f"{step}.safetensors"))
    for path in paths[:-1]:
        torch.manual_seed(7)  # of a process that starts otherwise
        rest = Training(config, device)
        rest.restore(*checkpoint.load(path))
        while not rest.done:
            rest.advance()
            rest.validate()
        assert save(rest, "end").read_bytes() == paths[-1].read_bytes()


def test_a_half_written_line_goes(whole: Path, tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(3):
        run.append_metrics({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    run.keep_metrics(2)
    assert run.metrics() == [{"step": 0}, {"step": 1}]
    with pytest.raises(RunError, match="has 2 lines; the checkpoint knows of 5"):
        run.keep_metrics(5)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def stopped(tmp_path: Path, whole: Path) -> Path:
    """A folder as a stopped run leaves it."""
    run = shutil.copytree(whole, tmp_path / "stopped")
    (run / "result.json").unlink()
    return run


def test_what_cannot_be_resumed_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is finished: there is nothing to resume" in refused(
        ["train", f"--resume={whole}"], capsys
    )
    said = refused(["train", f"--resume={whole}", "--steps=5", "--l2=0.1"], capsys)
    assert "l2, steps was given with resume, which goes on under the run's own settings" in said
    said = refused(["train", f"--resume={tmp_path / 'nowhere'}"], capsys)
    assert "config.json is unreadable" in said


def test_only_a_restart_by_a_launcher_finds_a_finished_run_finished(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rank may die after the result is written: the launcher's next attempt must not fail."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # of a launcher further out, say
    assert "is finished: there is nothing to resume" in refused(
        ["train", f"--resume={whole}"], capsys
    )
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    main(["train", f"--resume={whole}"])
    assert "is finished: there is nothing left to do" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert "is finished: there is nothing to resume" in refused(
        ["train", f"--resume={whole}"], capsys
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is unreadable or damaged"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "is unreadable or damaged"),
        (b"\xff" * 100, "is unreadable or damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    content: bytes, message: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped / "checkpoint.safetensors").write_bytes(content)
    assert message in refused(["train", f"--resume={stopped}"], capsys)


def test_a_checkpoint_of_other_settings_is_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"l2": 0.02}))
    assert "belongs to other settings" in refused(["train", f"--resume={stopped}"], capsys)


def test_the_names_in_a_checkpoint_stay() -> None:
    """A renamed one would make every earlier checkpoint unreadable."""
    names = [field.name for field in dataclasses.fields(checkpoint.RunKey)]
    assert names == ["config", "configured", "backbone", "data"]
    assert [field.name for field in dataclasses.fields(checkpoint.Progress)] == [
        "key", "origin", "step", "seen", "metrics", "validated", "stale", "seconds", "best",
        "optimiser", "schedule", "scaler",
    ]  # fmt: skip


def test_a_full_disk_leaves_the_checkpoint_before(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stopped / "checkpoint.safetensors"
    before = path.read_bytes()
    tensors, progress = checkpoint.load(path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left on device.*--resume"):
        checkpoint.save(path, tensors, progress)
    assert path.read_bytes() == before
    assert [file.name for file in stopped.iterdir() if file.name.startswith(".")] == []


def test_patience_ends_a_run_that_does_not_improve(tmp_path: Path) -> None:
    # With no learning the second validation can't be better than the first.
    main(
        [
            "train",
            f"--run={tmp_path / 'run'}",
            *SMALL,
            "--learning-rate=1e-30",
            "--patience=1",
            "--validate-every=2",
        ]
    )
    assert [line["step"] for line in Run(tmp_path / "run").metrics()] == [2, 4]
    assert Run(tmp_path / "run").result().best_step == 2
