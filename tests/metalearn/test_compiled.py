"""`--compiled`: which methods have loops for it, and a run whose answers are reproduced."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hypergrad import CG, GradientDescent, Implicit, Woodbury
from metalearn.config.choices import MethodName
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError
from metalearn.methods import LinearHeads
from metalearn.methods import overrides as adjust
from metalearn.methods.overrides import describe, numbers
from metalearn.training.budget import evaluation_bytes, predicted_bytes
from metalearn.training.state import Training


def test_both_loops_are_compiled_and_nothing_else_changes() -> None:
    plain = TrainConfig().replace(method="memory-reduced", lower_steps=7, adjoint_steps=9)
    whole = plain.replace(compiled=True).preset().method
    assert isinstance(whole, LinearHeads)
    assert isinstance(whole.lower.by, GradientDescent)
    assert isinstance(whole.lower.adjoint, Implicit)
    assert isinstance(whole.lower.adjoint.solver, CG)
    assert whole.lower.by.compiled
    assert whole.lower.adjoint.solver.compiled
    assert numbers(whole) == numbers(plain.preset().method)


def test_a_direct_adjoint_leaves_the_lower_steps() -> None:
    found = (
        TrainConfig()
        .replace(method="memory-reduced", adjoint="woodbury", compiled=True)
        .preset()
        .method
    )
    assert isinstance(found, LinearHeads)
    assert isinstance(found.lower.by, GradientDescent)
    assert isinstance(found.lower.adjoint, Implicit)
    assert found.lower.by.compiled
    assert isinstance(found.lower.adjoint.solver, Woodbury)


@pytest.mark.parametrize("method", ["memory-reduced-exact", "itd-bio", "anil", "maml", "protonet"])
def test_methods_without_such_loops_refuse(method: MethodName) -> None:
    with pytest.raises(ConfigError, match="compiled was given with .* Give method memory-reduced"):
        TrainConfig().replace(method=method, compiled=True)


def test_older_records_name_the_same_method() -> None:
    plain = TrainConfig().replace(method="memory-reduced")
    assert "compiled" not in describe(plain.preset())
    whole = describe(plain.replace(compiled=True).preset())
    assert whole.count("compiled=True") == 2


def test_testing_after_other_steps_is_not_compiled() -> None:
    config = TrainConfig().replace(method="memory-reduced", compiled=True)
    for method in (
        config.replace(test_lower_steps=3).preset().method,
        adjust.tested_by(config.preset().method, lower_steps=3),
    ):
        assert isinstance(method, LinearHeads)
        assert isinstance(method.lower.test, GradientDescent)
        assert not method.lower.test.compiled


def test_a_compiled_run_is_counted_operation_by_operation() -> None:
    plain = TrainConfig().replace(
        method="memory-reduced",
        lower_steps=2,
        adjoint_steps=2,
        filters=4,
        tasks_per_step=2,
        train=EpisodeShape(way=3),
        test=EpisodeShape(way=2, query=1),
    )
    counted = []
    for config in (plain, plain.replace(compiled=True)):
        training = Training(config, torch.device("cpu"))
        counted.append((predicted_bytes(training), evaluation_bytes(training, training.validation)))
    assert counted[0] == counted[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, g++")
def test_another_process_reproduces_a_compiled_run(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    # batches of two tasks everywhere: one program for each loop
    settings = ["--steps=1", "--validate-every=1", "--validation-episodes=2", "--test-episodes=2"]
    settings += ["--filters=4", "--tasks-per-step=2", "--train.way=5", "--threads=1"]
    settings += ["--method=memory-reduced", "--lower-steps=2", "--adjoint-steps=2", "--compiled"]
    for arguments in (["train", "--run", run, *settings], ["evaluate", run]):
        command = [sys.executable, "-m", "metalearn", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert "reproduced exactly: all 2 episodes" in ended.stdout
