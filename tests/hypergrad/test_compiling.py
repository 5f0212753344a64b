"""Loops as one program: the same steps as without, and refusals in this library's words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hypergrad import CG, GradientDescent
from hypergrad.errors import InputError
from tests.hypergrad.compiled_steps import EXAMPLES, FEATURES, L2, STEPS, problem

needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, g++"
)


@pytest.fixture(scope="module")
def found() -> Any:
    command = [sys.executable, "-m", "tests.hypergrad.compiled_steps"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@needs_a_compiler
def test_the_same_steps_in_another_order_of_sums(found: Any) -> None:
    seen = found["steps"]
    for name in ("steps", "status", "matvecs"):
        assert seen[name][0] == seen[name][1]
    assert seen["compiled anew"] == 0
    # Sums of up to `FEATURES` and `EXAMPLES` numbers differ by as many roundings, in every step of
    # either level; a system passes them on by its condition, at most |X|^2 / (2 n l2) + 1.
    _, theta, _ = problem(FEATURES, 0)
    largest = float(torch.linalg.matrix_norm(theta.detach(), ord=2).max())
    condition = largest**2 / (2 * EXAMPLES * L2) + 1
    allowed = torch.finfo(torch.float64).eps * (FEATURES + EXAMPLES) * 2 * STEPS * condition
    for name in ("phi", "gradient", "second gradient", "residual", "curvature"):
        assert seen[name] <= allowed
    assert seen["gradient"] > 0  # another program


@needs_a_compiler
def test_what_cannot_be_compiled_is_refused_with_the_reason(found: Any) -> None:
    told = found["refusals"]
    for case in ("objective", "product"):
        assert "compiled=True was given" in told[case]
        assert "autograd" in told[case].split("It needs")[0]
    assert "recompile_limit" in told["limit"]


def test_a_compiled_loop_looks_at_nothing() -> None:
    with pytest.raises(InputError, match="a compiled sweep looks at no value"):
        CG(max_steps=3, compiled=True)
    with pytest.raises(InputError, match="compiled steps look at no value"):
        GradientDescent(max_steps=3, step_size=0.1, rtol=0.1, compiled=True)


def test_a_machine_without_a_compiler_is_told(tmp_path: Path) -> None:
    code = (
        "import torch; from hypergrad import GradientDescent;"
        "from tests.hypergrad.compiled_steps import problem;"
        "GradientDescent(max_steps=1, step_size=0.1, compiled=True).minimise(*problem(4, 0))"
    )
    without = os.environ | {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=without)
    assert run.returncode == 1
    assert "hypergrad.errors.InputError: compiled=True was given" in run.stderr
    assert "It needs a compiler on this machine" in run.stderr


COMPILED = """
import torch
from hypergrad import CG, attach

x, y = torch.randn(8, 4).double(), torch.randn(8).double()

def ridge(t, p):
    return (x @ p - y).square().mean() + (t.exp() * p.square()).sum()

def step(theta, phi):
    return (3 * attach(ridge, 2 * theta, phi, solver=CG(rtol=1e-14))).pow(2).sum()

theta = torch.zeros(4).double().requires_grad_()
at = torch.linalg.solve(x.T @ x + 8 * torch.eye(4).double(), x.T @ y)
(want,) = torch.autograd.grad(step(theta, at), theta)
(got,) = torch.autograd.grad(torch.compile(step, backend="aot_eager")(theta, at), theta)
print(torch.equal(got, want), torch._dynamo.explain(step)(theta, at).graph_break_count)
"""


def test_a_compiled_step_breaks_once_and_gives_the_same() -> None:
    # in a process of its own: the type checks of tests are code that the compiler would trace
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "1"], found.stderr
