"""Bytes and time of a hypergradient by each curvature, over a gradient of the same network.

    python -m benchmarks.curvatures --out benchmarks/results/curvatures.json

A network of three layers is the lower level, its weight decay the upper variable. The adjoint
system is damped and takes ten steps of CG; what counts is what the products cost and whether they
are right. Bytes are those of tensors alive at a time beyond weights and data; time is process time
in turns. `ForwardOverReverse` is written here, as a user would write a curvature: it is not in the
library, for what this table says of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.provenance import SEED, provenance, write
from benchmarks.timing import interleaved, keep_pages, ratios
from hypergrad import CG, curvature, pullback
from hypergrad.implicit.curvature import Curvature, Point
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.operator import Operator
from hypergrad.objectives import Composed
from hypergrad.tree import flatten, leaves, like
from metalearn.memory import LiveBytes


@dataclasses.dataclass(frozen=True)
class ForwardOverReverse:
    """The Hessian by forward mode through the gradient, whose graph is not kept."""

    def linearise(
        self, lower: Any, theta: Any, phi: Any, *, needed: Sequence[bool] | None = None
    ) -> Point:
        """See :class:`Curvature`."""
        at = Linearisation(lower, theta, phi, needed=needed, twice=False)
        gradients = torch.func.grad(lower, argnums=(0, 1))

        def along(vector: Tensor) -> Any:
            at_theta = partial(gradients, theta)
            return torch.func.jvp(at_theta, (phi,), (like(phi, at.tree(vector)),))[1]

        return Point(
            at.batch,
            at.values,
            at.gradient,
            Operator(lambda vector: flatten(leaves(along(vector)[1]), at.batch)),
            lambda vector: leaves(along(vector)[0]),
        )


WAYS: Final[dict[str, Curvature]] = {
    "Hessian": curvature.Hessian(probe="never"),
    "ForwardOverReverse": ForwardOverReverse(),
    "GaussNewton": curvature.GaussNewton(),
    "FiniteDifference": curvature.FiniteDifference(),
}
SOLVER: Final = CG(damping=1.0, rtol=0.0, max_steps=10)
CLASSES: Final = 10


def network(width: int, examples: int) -> tuple[Composed[Tensor, list[Tensor]], ...]:
    """The objective in float32 and in float64: cross entropy plus ``exp(theta) |phi|^2 / 2``."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(examples, width, generator=generator)
    y = torch.randint(CLASSES, (examples,), generator=generator)

    def model(x: Tensor, theta: Tensor, phi: list[Tensor]) -> Tensor:
        for weight in phi[:-1]:
            x = torch.tanh(x @ weight)
        return x @ phi[-1]

    def loss(theta: Tensor, outputs: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, y)

    def decay(theta: Tensor, phi: list[Tensor]) -> Tensor:
        return theta.exp() * torch.stack([weight.square().sum() for weight in phi]).sum() / 2

    return tuple(
        Composed(model=partial(model, x.to(dtype)), loss=loss, penalty=decay)
        for dtype in (torch.float32, torch.float64)
    )


def weights(width: int, depth: int) -> list[Tensor]:
    """A start for the network."""
    generator = torch.Generator().manual_seed(SEED + 1)
    sizes = [*[width] * depth, CLASSES]
    return [
        torch.randn(before, after, generator=generator) / before**0.5
        for before, after in itertools.pairwise(sizes)
    ]


def gradient(lower: Composed[Tensor, list[Tensor]], theta: Tensor, phi: list[Tensor]) -> None:
    """A gradient as plain training takes it."""
    moved = [weight.detach().requires_grad_() for weight in phi]
    torch.autograd.grad(lower(theta, moved), moved)


def beyond(run: Callable[[], object], present: list[Tensor]) -> int:
    """Most bytes alive at a time beyond what was there."""
    with LiveBytes(present) as live:
        run()
    peak: int = live.peak
    return peak - sum(tensor.nbytes for tensor in present)


def compared(*, width: int, depth: int, examples: int, rounds: int) -> dict[str, object]:
    """Bytes, times and errors of all ways."""
    lower, precise = network(width, examples)
    phi, theta = weights(width, depth), torch.tensor(-4.0)
    plain = partial(gradient, lower, theta, phi)
    cotangent = [torch.ones_like(weight) / weight.numel() ** 0.5 for weight in phi]
    runs: dict[str, Callable[[], Tensor]] = {
        name: partial(_hypergradient, lower, theta, phi, cotangent, by) for name, by in WAYS.items()
    }
    weights64, cotangent64 = ([each.double() for each in tree] for tree in (phi, cotangent))
    truth = _hypergradient(precise, theta.double(), weights64, cotangent64, WAYS["Hessian"])
    answers = {name: run() for name, run in runs.items()}
    plain()
    alone = beyond(plain, phi)
    alive = {name: beyond(run, [*phi, *cotangent]) for name, run in runs.items()}
    _, *times = ratios(interleaved([plain, *runs.values()], rounds=rounds))
    return {
        "parameters": sum(weight.numel() for weight in phi),
        "examples": examples,
        "adjoint_steps": SOLVER.max_steps,
        "gradient_bytes": alone,
        "ways": {
            name: {
                "bytes": alive[name],
                "bytes_over_gradient": alive[name] / alone,
                "time_over_gradient": dataclasses.asdict(time),
                "relative_error": abs(float(answers[name] / truth) - 1),
            }
            for name, time in zip(runs, times, strict=True)
        },
    }


def _hypergradient(
    lower: Composed[Tensor, list[Tensor]],
    theta: Tensor,
    phi: list[Tensor],
    cotangent: list[Tensor],
    by: Curvature,
) -> Tensor:
    found, _ = pullback(lower, theta, phi, cotangent, solver=SOLVER, curvature=by)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    origin = provenance()
    settings = {
        "one batch": compared(width=576, depth=3, examples=128, rounds=asked.rounds),
        "many examples": compared(width=576, depth=3, examples=1024, rounds=asked.rounds),
    }
    write(asked.out, {"provenance": origin, "settings": settings})
    for name, found in settings.items():
        print(name, found)


if __name__ == "__main__":
    main()
