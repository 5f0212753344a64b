"""The commands from end to end: train, look at what is left, test again, refuse."""

import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metalearn.cli import main
from metalearn.data.glyphs import glyph_images
from metalearn.runs.folder import Run
from tests.metalearn.commands import SMALL, refused


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "small"
    main(["train", f"--run={folder}", *SMALL])
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_run_leaves_its_evidence(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    episodes = result["per_episode"]
    assert len(episodes) == 30
    mean = sum(episodes) / 30
    spread = (sum((a - mean) ** 2 for a in episodes) / 29) ** 0.5
    assert result["accuracy"] == pytest.approx(mean, rel=1e-12)
    assert result["interval"] == pytest.approx(1.96 * spread / 30**0.5, rel=1e-12)
    assert result["protocol"] == {
        "data": "glyphs",
        "data_sha256": hashlib.sha256(glyph_images().tobytes()).hexdigest(),
        "split": "test",
        "way": 5,
        "shot": 1,
        "query": 5,
        "episodes": 30,
        "episode_seed": 0,
        "fewest_way": None,
        "fewest_shot": None,
    }
    assert result["normalisation"] == "stored"
    assert result["l2"] == 0.01
    assert result["method"] == "memory-reduced-exact"
    assert result["step_bytes"] > 2 * 35 * 28 * 28 * 4  # the images of a step at least
    certificate = result["certificate"]
    for name in ("stationarity", "residual"):
        for when in ("training", "end"):
            found = certificate[name][when]
            assert 0 <= found["median"] <= found["worst"] < 1e-3
    assert (certificate["tasks"], certificate["failed"], certificate["fixed_steps"]) == (
        12,
        0,
        False,
    )
    assert certificate["adjoint_status"]["CONVERGED"] == sum(certificate["adjoint_status"].values())
    assert {"torch", "python", "numpy"} <= result["versions"].keys()
    assert {"commit", "dirty", "device", "threads", "seed", "seconds"} <= result.keys()
    # At least the interpreter with torch, at most this machine.
    assert 50e6 < result["peak_memory"]["bytes"] < 1e12

    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    best = max(lines, key=lambda line: line["validation"])
    assert (result["best_step"], result["validation"]) == (best["step"], best["validation"])
    with Image.open(finished / "curves.png") as curves:
        assert curves.size == (1320, 418)
    assert list(finished.glob("events.out.tfevents.*"))
    settings = json.loads((finished / "config.json").read_text())
    assert (settings["steps"], settings["train"]["way"]) == (6, 5)
    # What auto meant, so that a test of the weights takes the same.
    assert settings["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("command", ["test", "evaluate"])
def test_the_recorded_test_is_reproduced_exactly(
    command: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, str(finished)])
    said = capsys.readouterr().out
    assert "reproduced exactly: all 30 episodes" in said
    result = Run(finished).result()
    assert f"{100 * result.accuracy:.2f} ± {100 * result.interval:.2f} %" in said


def test_the_papers_preset_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "train",
            f"--run={tmp_path / 'paper'}",
            *SMALL,
            "--method=memory-reduced",
            "--lower-steps=7",
            "--normalisation=group",
        ]
    )
    result = Run(tmp_path / "paper").result()
    found = [result.method, result.K, result.step_size, result.N, result.normalisation]
    assert found == ["memory-reduced", 7, 0.05, 20, "group"]
    # It stops after N steps wherever it is: no failure, and said with how far it came.
    assert result.certificate is not None
    assert result.certificate["fixed_steps"]
    assert result.certificate["failed"] == 0
    assert "12 tasks took the steps they were given; median relative" in capsys.readouterr().out


def test_a_lower_level_that_is_not_solved_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With next to no regulariser the Hessian of separable data is next to singular.
    short = ["--steps=2", "--validation-episodes=2", "--test-episodes=2"]
    names = {setting.partition("=")[0] for setting in short}
    rest = [setting for setting in SMALL if setting.partition("=")[0] not in names]
    main(["train", f"--run={tmp_path / 'run'}", *rest, *short, "--l2=1e-7"])
    said = capsys.readouterr().out
    certificate = Run(tmp_path / "run").result().certificate
    assert certificate is not None
    failed = certificate["failed"]
    assert failed > 0
    assert f"{failed} of 4 tasks FAILED ({certificate['lower_failed']} lower levels" in said
    assert "worst failure" in said
    assert re.search(r"tasks failed \d", said)  # the progress lines say so as it happens


def rewrite(copy: Path, **changes: Any) -> None:
    """Change fields of the result."""
    path = copy / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_weights_are_not_reproduced(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(copy)
    others = {name: w if name.endswith("variance") else -w for name, w in run.weights().items()}
    run.write_weights(others, run.card())
    said = refused(["test", str(copy)], capsys)
    assert "weights.safetensors is not the file that result.json is the result of" in said
    # Were the digest changed with the weights, the episodes would tell.
    rewrite(copy, files=run.digests())
    said = refused(["test", str(copy)], capsys)
    assert "RunError: not reproduced" in said
    assert "30 episodes differ" in said
    assert "neither versions nor device" in said


def test_other_settings_are_not_reproduced(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"l2": 0.02}))
    said = refused(["test", str(copy)], capsys)
    assert "config.json is not the file that result.json is the result of" in said
    rewrite(copy, files=Run(copy).digests())
    assert "l2 is 0.01, and 0.02 comes out" in refused(["test", str(copy)], capsys)


EDITS: dict[str, Any] = {
    "accuracy": 0.99,
    "interval": 0.001,
    "interval_formula": "a guess",
    "normalisation": "group",
    "method": "maml",
    "configured": "otherwise",
    "optimiser": "sgd",
    "learning_rate": 1.0,
    "schedule": "constant",
    "tasks_per_step": 99,
    "test_K": 1,
    "variant": "as published",
    "source": "hearsay",
    "departures": "",
    "backbone": "conv4-64",
    "precision": "float16",
    "l2": 1.0,
    "K": 20,
    "step_size": 0.05,
    "N": 20,
    "seed": 7,
    "threads": 64,
    "parameters": 1,
}


def test_each_edit_of_a_result_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(copy, **EDITS)
    said = refused(["test", str(copy)], capsys)
    for name, value in EDITS.items():
        assert f"{name} is {value!r}, and" in said


def test_an_edited_protocol_is_not_reproduced(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = Run(copy).result().protocol
    for name in ("way", "shot", "episodes", "episode_seed", "split", "data_sha256"):
        other = "train" if name in ("split", "data_sha256") else 20
        rewrite(copy, protocol=asdict(protocol) | {name: other})
        assert "protocol is TestProtocol(" in refused(["test", str(copy)], capsys), name


def test_missing_episodes_and_another_version_are_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = Run(copy).result().versions
    rewrite(copy, per_episode=[0.5] * 7, versions=versions | {"torch": "0.1"})
    said = refused(["test", str(copy)], capsys)
    assert "per_episode has 7 values for 30 episodes" in said
    assert "'torch': '0.1'" in said


DAMAGE: list[tuple[str, bytes | None, str]] = [
    ("result.json", None, "is no folder of a finished run: result.json is unreadable"),
    ("config.json", b"{", "config.json is damaged"),
    ("config.json", b"{}", "ConfigError: the settings has missing fields"),
    ("config.json", b'{"l2\xff": 1}', "config.json is damaged ('utf-8' codec"),
    ("config.json", b'{"l2": NaN}', "config.json is damaged (NaN is no JSON value)"),
    ("result.json", b"[]", "an object was expected"),
    ("result.json", b"{}", "result.json is damaged: it has missing fields ['K', "),
    ("result.json", b"\xff", "result.json is damaged"),
    ("result.json", b"[" * 100_000, "result.json is damaged"),
    ("weights.safetensors", b"\0" * 20, "weights.safetensors is damaged"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_damaged_runs_are_refused(
    copy: Path, name: str, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    assert message in refused(["test", str(copy)], capsys)


@pytest.mark.parametrize(
    ("field", "value"),
    [("accuracy", "0.9"), ("per_episode", 0.9), ("per_episode", ["x"]), ("protocol", None)],
)
def test_results_of_another_type_are_refused(
    field: str, value: object, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(copy, **{field: value})
    said = refused(["test", str(copy)], capsys)
    assert f"result.json is damaged: it.{field}" in said


def test_weights_of_another_backbone_are_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(copy)
    run.write_weights({"backbone.convs.0.weight": torch.zeros(1)}, run.card())
    rewrite(copy, files=run.digests())
    assert "don't fit its settings" in refused(["test", str(copy)], capsys)


BAD = [
    (["--l2=0"], "l2 was given as 0.0: it must be positive"),
    (["--lower-steps=3"], "or choose another method"),
    (["--test.way=200"], "200-way episodes were asked for, but the test split has 141 classes"),
    (["--train.shot=12"], "need 14 images of each class, but the train split has 12"),
    (["--method=fast"], "fast"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_settings_end_with_a_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "never"
    assert message in refused(["train", f"--run={folder}", *arguments], capsys)
    assert not folder.exists()


def test_a_run_is_never_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "result.json").read_bytes()
    assert "holds files already" in refused(["train", f"--run={finished}", *SMALL], capsys)
    assert (finished / "result.json").read_bytes() == before
