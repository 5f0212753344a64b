"""The hypergradient under examination, taken apart, and how much rounding may be in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.subject import Subject
from hypergrad.implicit.pullback import Hypergradient, hypergradient
from hypergrad.linear.solution import LinearSolver
from hypergrad.objective import Bilevel
from hypergrad.tree import Tree, flatten, fresh_leaf, leaves, like


@dataclass(frozen=True, slots=True)
class Answer:
    """A hypergradient taken apart."""

    total: Tensor  # (p,) h = mean_i (d f_i/d theta - J_i v_i)
    direct: Tensor  # (p,) its first term
    cotangent: Tensor  # (*batch, n) d f_i/d phi
    whole: Hypergradient[Any]

    @property
    def size(self) -> float:
        """The terms' size, which does not vanish where they cancel (an upper minimiser)."""
        return float(self.direct.norm() + (self.total - self.direct).norm())


def differentiate(
    subject: Subject, problem: Bilevel[Any, Any], phi: Any, solver: LinearSolver
) -> Answer:
    """The library's hypergradient at phi, and its parts."""
    whole = hypergradient(problem, subject.theta, phi, solver=solver)
    direct, cotangent = _slopes(subject, phi)
    return Answer(flat(whole.grad), direct, cotangent, whole)


def _slopes(subject: Subject, phi: Any) -> tuple[Tensor, Tensor]:
    """``mean_i d f_i/d theta`` and each ``d f_i/d phi``."""
    theta = [fresh_leaf(leaf) for leaf in leaves(subject.theta)]
    probes = [fresh_leaf(leaf) for leaf in leaves(phi)]
    with torch.enable_grad():
        values = subject.plain.upper(like(subject.theta, theta), like(phi, probes))
        parts = torch.autograd.grad(
            values.sum(), [*theta, *probes], allow_unused=True, materialize_grads=True
        )
    direct = torch.cat([part.reshape(-1) for part in parts[: len(theta)]]) / values.numel()
    return direct, flatten(parts[len(theta) :], subject.batch)


def flat(tree: Tree) -> Tensor:
    """All of a tree's numbers in one vector."""
    return torch.cat([leaf.detach().reshape(-1) for leaf in leaves(tree)])


def rounding_of(subject: Subject) -> float:
    """theory.md, Theorem FP: a hypergradient's relative rounding, as it recommends to allow it."""
    return 100 * subject.eps * float((subject.largest / subject.smallest).max())
