"""SOBA written in JAX beside ours: their first 100 iterates on the same batches, in float64.

The problem selects one penalty for each feature of a softmax regression on scikit-learn's irises,
in batches of 32 with a short last one. The program in JAX shares no line with the library but the
numbers of each batch: its derivatives are JAX's, and its v has the sign of Dagreou et al. 2022.

jax is a peer: run this in the environment that benchmarks/peers.py describes.

    PEERS/bin/python -m benchmarks.soba_jax --out benchmarks/results/soba_jax.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from sklearn.datasets import load_iris
from torch import Tensor

from benchmarks.peer_entries import peer, version
from benchmarks.peer_jax import back, moved
from benchmarks.provenance import SEED, provenance, write
from hypergrad import Bilevel
from hypergrad.stochastic import SOBA, Minibatched, State, decaying

STEPS: Final = 100
TRAIN, SIZE, CLASSES = 100, 32, 3
STEP, UPPER_STEP = 0.5, 0.3  # of the first step; both fall as its number to the power -1/2
OUT: Final = Path(__file__).parent / "results" / "soba_jax.json"
Batch = tuple[Tensor, Tensor, float]


def penalised(theta: Tensor, phi: Tensor, examples: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of some training examples, and half of ``sum_k e^theta_k |phi_k|^2``."""
    penalty: Tensor = (theta.exp() * phi.square().sum(dim=0)).sum() / 2
    return held_out(theta, phi, examples) + penalty


def held_out(theta: Tensor, phi: Tensor, examples: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of some held-out examples."""
    x, y = examples
    return torch.nn.functional.cross_entropy(x @ phi.mT, y)


def selection() -> Bilevel[Tensor, Tensor]:
    """Penalties of four features for three classes."""
    irises = load_iris()
    x = torch.tensor(irises.data)
    x, y = (x - x.mean(dim=0)) / x.std(dim=0), torch.tensor(irises.target)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))
    train, other = rows[:TRAIN], rows[TRAIN:]
    return Bilevel(
        upper=Minibatched(loss=held_out, data=(x[other], y[other]), size=SIZE, seed=1),
        lower=Minibatched(loss=penalised, data=(x[train], y[train]), size=SIZE),
    )


def start() -> tuple[Tensor, Tensor]:
    """Theta of four features, phi of three classes."""
    return torch.full((4,), -1.0, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)


METHOD: Final = SOBA(step_size=decaying(STEP), upper_step_size=decaying(UPPER_STEP))


def iterates(method: Any = METHOD, steps: int = STEPS) -> Tensor:
    """``(steps, 28)``: theta, phi and v after each step of this library's method."""
    problem = selection()
    state: State[Tensor, Tensor] = method.start(problem, *start())
    found = []
    for _ in range(steps):
        state = method.step(problem, state)
        found.append(torch.cat([state.theta, state.phi.reshape(-1), state.v]))
    return torch.stack(found)


def batches(steps: int = STEPS) -> Iterator[tuple[Batch, Batch]]:
    """The examples and the weight of each step's batch, of the lower and of the upper level."""
    problem: Any = selection()
    for step in range(steps):
        lower, upper = problem.lower.batch(step), problem.upper.batch(step)
        yield (*lower.examples, lower.weight), (*upper.examples, upper.weight)


def iterates_of_jax(steps: int = STEPS) -> Tensor:
    """``(steps, 28)``: theta, phi and v after each step of a program in JAX."""
    jax, jnp = peer("jax"), peer("jax.numpy")
    theta, phi = moved(*start())
    minus_v = jnp.zeros_like(phi)

    def upper(phi: Any, theta: Any, x: Any, y: Any, weight: Any) -> Any:
        scores = x @ phi.T
        own = jnp.take_along_axis(scores, y[:, None], axis=1)[:, 0]
        return weight * (jax.nn.logsumexp(scores, axis=1) - own).mean()

    def lower(phi: Any, theta: Any, x: Any, y: Any, weight: Any) -> Any:
        penalty = jnp.vdot(jnp.exp(theta) * phi, phi) / 2
        return upper(phi, theta, x, y, weight) + weight * penalty

    def step(carry: Any, rate: Any, own: Any, other: Any) -> Any:
        theta, phi, minus_v = carry

        def slope(phi: Any, theta: Any) -> Any:
            return jax.grad(lower)(phi, theta, *own)

        gradient, pull = jax.vjp(slope, phi, theta)
        product, cross = pull(minus_v)
        in_phi, in_theta = jax.grad(upper, (0, 1))(phi, theta, *other)
        return (
            theta - UPPER_STEP * rate * (cross + in_theta),
            phi - STEP * rate * gradient,
            minus_v - STEP * rate * (product + in_phi),
        )

    step = jax.jit(step)
    carry, found = (theta, phi, minus_v), []
    for number, (own, other) in enumerate(batches(steps)):
        given = [(*moved(x, y), weight) for x, y, weight in (own, other)]
        carry = step(carry, (number + 1) ** -0.5, *given)
        parts = [back(part).reshape(-1) for part in carry]
        found.append(torch.cat([*parts[:2], -parts[2]]))
    return torch.stack(found)


def main() -> None:
    """Run both and write JAX's iterates with the largest difference."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    options = parser.parse_args()
    origin = provenance() | {"jax": version("jax")}
    theirs, ours = iterates_of_jax(), iterates()
    record: dict[str, Any] = {
        **origin,
        "steps": STEPS,
        "largest_difference": float((ours - theirs).abs().max()),
        "largest_entry": float(theirs.abs().max()),
        "iterates": theirs.tolist(),
    }
    print({name: value for name, value in record.items() if name != "iterates"})
    write(options.out, record)


if __name__ == "__main__":
    main()
