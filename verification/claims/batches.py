"""Steps on batches are right on average: over all batches there are, the mean is that on all data.

The problem is a ridge regression with one penalty for each weight, and held-out data; its
derivatives on any examples stand here in NumPy, apart from the library.

- *Unbiased directions.* Over an epoch, whose blocks may differ in size, the mean of a single-loop
  step is the step on all data. Each of its three directions is a sum of one term of the lower
  batch and one of the upper, so that the mean over pairs is the mean over turns.
- *Unbiased series.* Over all batches that stocBiO can draw for the factors of its Neumann series
  and for the cross product, the mean of its upper step is that of the series of the whole Hessian.
- *Variance.* Over all subsets of b of m examples the variance of a direction is S^2 (m - b) /
  (b (m - 1)), S^2 being that over single examples: the variance of means of samples without
  replacement (Cochran 1977, Theorem 2.2).
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from hypergrad import Bilevel
from hypergrad.stochastic import SOBA, Minibatched, State, StocBiO
from verification.claims.evidence import Evidence, worst
from verification.oracles.rounding import unit_roundoff
from verification.subjects.bug import Kind, source_bugs

Vector = Float64[np.ndarray, " n"]
Matrix = Float64[np.ndarray, "m n"]
Data = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[Any, Bilevel[torch.Tensor, torch.Tensor], State[Any, Any]], State[Any, Any]]

Q = 3  # weights, and penalties
RATE = 0.25  # a power of two, and so are all step sizes: dividing by it rounds nothing


def step(
    method: Any, problem: Bilevel[torch.Tensor, torch.Tensor], state: State[Any, Any]
) -> State[Any, Any]:
    """The library's step."""
    found: State[Any, Any] = method.step(problem, state)
    return found


def ridge(theta: torch.Tensor, phi: torch.Tensor, examples: Data) -> torch.Tensor:
    """Half the mean square and half the penalty."""
    x, y = examples
    value: torch.Tensor = (x @ phi - y).square().mean() + (theta.exp() * phi.square()).sum()
    return value / 2


def held_out(theta: torch.Tensor, phi: torch.Tensor, examples: Data) -> torch.Tensor:
    """Half the mean square on other examples, and a pull on theta."""
    x, y = examples
    value: torch.Tensor = (x @ phi - y).square().mean() / 2 + theta.square().sum() / 4
    return value


class Drawn:
    """A drawn problem and the point where steps are taken."""

    def __init__(self, seed: int, examples: int) -> None:
        rng = np.random.default_rng([seed, 83])
        self.lower = rng.standard_normal((examples, Q)), rng.standard_normal(examples)
        self.upper = rng.standard_normal((examples, Q)), rng.standard_normal(examples)
        self.theta, self.phi, self.v = rng.uniform(-1, 1, (3, Q))
        # entries of H, c and the directions are at most about this; sums have some tens of terms
        self.rounding = 1000 * unit_roundoff() * (10 + float(np.abs(self.lower[0]).max()) ** 4)

    def state(self, step: int = 0) -> State[Any, Any]:
        """The state at the point; ``step`` is the key of the batches."""
        theta, phi, v = (torch.tensor(part) for part in (self.theta, self.phi, self.v))
        return State(theta, phi, v, {}, step)

    def hessian(self) -> Matrix:
        """H on all data."""
        x, _ = self.lower
        whole: Matrix = x.T @ x / len(x) + np.diag(np.exp(self.theta))
        return whole

    def cotangent(self, phi: Vector) -> Vector:
        """The right-hand side, d f/d phi, on all data."""
        x, y = self.upper
        c: Vector = x.T @ (x @ phi - y) / len(x)
        return c

    def in_theta(self, phi: Vector, v: Vector) -> Vector:
        """The hypergradient, d f/d theta - J v, where theta are penalties."""
        found: Vector = self.theta / 2 - np.exp(self.theta) * phi * v
        return found


def tensors(data: tuple[Any, Any]) -> Data:
    """The data of a level for torch."""
    return torch.tensor(data[0]), torch.tensor(data[1])


def _apart(claim: str, found: Vector, exact: Vector, allowed: float, where: str) -> Evidence:
    return Evidence(
        claim=claim,
        error=float(np.linalg.norm(found - exact)),
        tolerance=allowed,
        scale=float(np.linalg.norm(exact)),
        where=where,
    )


def unbiased_directions(subject: Step, seed: int) -> Evidence:
    """Over an epoch the mean step of a single-loop method is the step on all data."""
    drawn = Drawn(seed, examples=11)
    size = 2 + seed % 4  # leaves a short last block
    problem = Bilevel(
        upper=Minibatched(loss=held_out, data=tensors(drawn.upper), size=size, seed=seed),
        lower=Minibatched(loss=ridge, data=tensors(drawn.lower), size=size, seed=seed + 1),
    )
    method = SOBA(step_size=RATE, upper_step_size=RATE)
    blocks = -(-11 // size)
    moves = []
    for key in range(blocks):
        before = drawn.state(key)
        after = subject(method, problem, before)
        moves.append(
            [
                ((old - new) / RATE).numpy()
                for old, new in (
                    (before.theta, after.theta),
                    (before.phi, after.phi),
                    (before.v, after.v),
                )
            ]
        )
    x, y = drawn.lower
    exact = {
        "theta": drawn.in_theta(drawn.phi, drawn.v),
        "phi": x.T @ (x @ drawn.phi - y) / len(x) + np.exp(drawn.theta) * drawn.phi,
        "v": drawn.hessian() @ drawn.v - drawn.cotangent(drawn.phi),
    }
    return worst(
        _apart(
            "batches' mean",
            np.mean([move[place] for move in moves], axis=0),
            right,
            drawn.rounding,
            f"direction of {name}, {blocks} blocks",
        )
        for place, (name, right) in enumerate(exact.items())
    )


class GivenDraws(Minibatched[torch.Tensor, torch.Tensor]):
    """A finite sum whose draws, and whose turns after the first, are given."""

    draws: tuple[int, ...] = ()
    turn: int = 0

    def batch(self, key: int) -> Any:
        """The first block for the step on phi, the given one for the cross product."""
        return self.block(0 if key == 0 else self.turn)

    def drawn(self, key: int) -> Any:
        """The given block of a factor."""
        return self.block(self.draws[key])


def unbiased_series(subject: Step, seed: int) -> Evidence:
    """Over all batches that can be drawn stocBiO's mean upper step is that of the whole series."""
    drawn = Drawn(seed, examples=5)
    lower = GivenDraws(loss=penalised, data=tensors(drawn.lower), size=2)  # blocks of 2, 2 and 1
    problem = Bilevel(
        upper=Minibatched(loss=held_out, data=tensors(drawn.upper), size=5), lower=lower
    )
    terms = 2
    method = StocBiO(
        step_size=RATE / 4,
        adjoint_step_size=RATE / 4,
        upper_step_size=RATE,
        lower_steps=1,
        terms=terms,
    )
    before, total, count = drawn.state(), np.zeros(Q), 0
    phi = drawn.phi
    for turn, *draws in itertools.product(range(3), repeat=1 + terms):
        object.__setattr__(lower, "turn", turn)
        object.__setattr__(lower, "draws", tuple(draws))
        after = subject(method, problem, before)
        total, count = total + ((before.theta - after.theta) / RATE).numpy(), count + 1
        phi = after.phi.numpy()
    # each of two products and the cross product has the weights exp(x_j theta)
    x, _ = drawn.lower
    hessian = x.T @ (np.exp(x @ drawn.theta)[:, None] * x) / len(x) + np.eye(Q)
    factor = np.eye(Q) - RATE / 4 * hessian
    v = (
        RATE
        / 4
        * sum(np.linalg.matrix_power(factor, q) @ drawn.cotangent(phi) for q in range(terms + 1))
    )
    # J v: d/d theta of mean_j exp(x_j theta) (x_j phi - y_j) x_j v
    residual = x @ phi - drawn.lower[1]
    cross = x.T @ (np.exp(x @ drawn.theta) * residual * (x @ v)) / len(x)
    return _apart(
        "unbiased series",
        total / count,
        drawn.theta / 2 - cross,
        drawn.rounding * float(np.exp(np.abs(x) @ np.abs(drawn.theta)).max()) ** 3,
        f"{count} ways to draw",
    )


def penalised(theta: torch.Tensor, phi: torch.Tensor, examples: Data) -> torch.Tensor:
    """Least squares whose examples' weights depend on theta, so that J differs between blocks."""
    x, y = examples
    each = (x @ theta).exp() * (x @ phi - y).square()
    value: torch.Tensor = each.mean() + phi.square().sum()
    return value / 2


def variance_of_batches(subject: Step, seed: int) -> Evidence:
    """A direction's variance over all batches of b of m examples is O(1/b), with its constant."""
    return worst(_variances(subject, seed))


def _variances(subject: Step, seed: int) -> Iterator[Evidence]:
    m = 6
    drawn = Drawn(seed, examples=m)
    method = SOBA(step_size=RATE, upper_step_size=RATE)
    upper = Minibatched(loss=held_out, data=tensors(drawn.upper), size=m)
    before = drawn.state()
    found: dict[int, float] = {}
    for b in (1, 2, 3):
        moves = []
        for chosen in itertools.combinations(range(m), b):
            data = tensors((drawn.lower[0][list(chosen)], drawn.lower[1][list(chosen)]))
            problem = Bilevel(upper=upper, lower=Minibatched(loss=ridge, data=data, size=b))
            moves.append(((before.phi - subject(method, problem, before).phi) / RATE).numpy())
        found[b] = float(np.var(moves, axis=0).sum())
    for b in (2, 3):
        exact = found[1] * (m - b) / (b * (m - 1))
        yield Evidence(
            claim="variance of batches",
            error=abs(found[b] - exact),
            tolerance=drawn.rounding * (1 + found[1]),
            scale=exact,
            where=f"{b} of {m} examples",
        )
    x, y = drawn.lower
    single = x * (x @ drawn.phi - y)[:, None]
    yield Evidence(
        claim="variance of batches",
        error=abs(found[1] - float(np.var(single, axis=0).sum())),
        tolerance=drawn.rounding * (1 + found[1]),
        scale=found[1],
        where="single examples",
    )


KIND = Kind(
    "steps on batches",
    step,
    (
        *source_bugs(
            step,
            "batches' mean",
            (
                (
                    "B01",
                    "a short block weighs as much as the others",
                    "stochastic.minibatched",
                    "weight = len(indices) * self.blocks / self.examples",
                    "weight = 1.0",
                ),
                (
                    "B02",
                    "blocks come twice in an epoch, or not at all",
                    "stochastic.minibatched",
                    "int(_permutation(self.seed, 1 + epoch, self.blocks)[place])",
                    "int(_permutation(self.seed, 1 + key, self.blocks)[place])",
                ),
                (
                    "B03",
                    "the cross product is added",
                    "stochastic.soba",
                    "theta=in_theta - lower.cross",
                    "theta=in_theta + lower.cross",
                ),
                (
                    "B04",
                    "the right-hand side has the other sign",
                    "stochastic.soba",
                    "v=lower.product - in_phi",
                    "v=lower.product + in_phi",
                ),
            ),
        ),
        *source_bugs(
            step,
            "unbiased series",
            (
                (
                    "B05",
                    "one batch for all factors",
                    "stochastic.loops",
                    "lower.drawn(state.step * self.terms + factor)",
                    "lower.drawn(state.step * self.terms)",
                ),
                (
                    "B06",
                    "factors by turn, which are not independent",
                    "stochastic.loops",
                    "lower.drawn(state.step * self.terms + factor)",
                    "lower.batch(state.step * self.terms + factor)",
                ),
                (
                    "B07",
                    "the last term is missing",
                    "stochastic.loops",
                    "for factor in range(self.terms):",
                    "for factor in range(self.terms - 1):",
                ),
            ),
        ),
        *source_bugs(
            step,
            "variance of batches",
            (
                (
                    "B08",
                    "only the first half of a block is seen",
                    "stochastic.minibatched",
                    "self._examples(indices), weight, index)",
                    "self._examples(indices[: -(-len(indices) // 2)]), weight, index)",
                ),
            ),
        ),
    ),
)
