"""A compiled function that calls this library: one break, the same numbers."""

from __future__ import annotations

import subprocess
import sys

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
