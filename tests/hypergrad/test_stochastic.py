"""Lower levels of many examples: batches and single-loop methods."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from hypergrad import CG, Bilevel, attach, hypergradient
from hypergrad.errors import InputError, NotFiniteError, TransformError
from hypergrad.settings import check_power, check_weight
from hypergrad.stochastic import (
    F2SA,
    SABA,
    SOBA,
    AmIGO,
    Minibatched,
    State,
    StocBiO,
    Subsampled,
    decaying,
    growing,
)
from hypergrad.stochastic.soba import directions
from tests.hypergrad.finite_sums import (
    PHI,
    THETA,
    M,
    Q,
    drawn,
    held_out,
    minimiser,
    problem,
    ridge,
    true_slope,
)

METHODS: list[Any] = [
    SOBA(step_size=0.05, upper_step_size=0.1),
    SABA(step_size=0.05, upper_step_size=0.1),  # below 1 / 3L of each block, as SAGA's are
    StocBiO(step_size=0.1, adjoint_step_size=0.1, upper_step_size=0.2, lower_steps=2, terms=20),
    AmIGO(
        step_size=0.1, adjoint_step_size=0.1, upper_step_size=0.2, lower_steps=2, adjoint_steps=2
    ),
    F2SA(step_size=0.1, upper_step_size=0.2, weight=growing(1.0, 1.0), lower_steps=2),
]


def test_the_mean_over_blocks_is_the_whole_sum() -> None:
    lower: Any = problem().lower
    phi = torch.randn(Q, dtype=torch.float64)
    whole = ridge(THETA, phi, drawn(0))
    assert lower.blocks == 4
    blocks = torch.stack([lower.block(i)(THETA, phi) for i in range(4)])
    # sums of 11 terms in another order
    torch.testing.assert_close(blocks.mean(), whole, rtol=1e-14, atol=0)
    torch.testing.assert_close(lower(THETA, phi), whole, rtol=1e-14, atol=0)


def test_each_epoch_visits_each_block_once_and_keys_decide() -> None:
    lower: Any = problem().lower
    epochs = [[lower.batch(4 * e + i).index for i in range(4)] for e in range(20)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    again: Any = problem().lower
    assert [again.batch(key).index for key in range(8)] == [*epochs[0], *epochs[1]]
    other = replace(again, seed=1)
    assert not torch.equal(other.batch(0).examples[1], again.batch(0).examples[1])


def test_draws_are_independent_where_turns_are_not() -> None:
    lower: Any = problem().lower
    drawn_ones = [lower.drawn(key).index for key in range(2000)]
    assert drawn_ones == [lower.drawn(key).index for key in range(2000)]
    # each block, and each pair of neighbours, within five standard deviations of its share
    for share, hits in (
        *((1 / 4, sum(i == block for i in drawn_ones)) for block in range(4)),
        (1 / 4, sum(a == b for a, b in itertools.pairwise(drawn_ones))),
    ):
        assert abs(hits - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5
    with pytest.raises(InputError, match="drawn got key=-1"):
        lower.drawn(-1)


def test_data_that_stay_elsewhere_give_the_same() -> None:
    x, y = drawn(0)
    held: Any = problem().lower
    lazy: Any = Minibatched(loss=ridge, data=lambda i: (x[i], y[i]), size=3, examples=M)
    phi = torch.ones(Q, dtype=torch.float64)
    assert torch.equal(lazy(THETA, phi), held(THETA, phi))


def test_directions_are_unbiased_over_all_pairs_of_blocks() -> None:
    state = State(THETA, torch.ones_like(PHI), torch.full_like(PHI, 0.5), {}, 0)
    found = problem()

    class Fixed(Minibatched[Any, Any]):
        """Draws the block that its seed names."""

        def batch(self, key: int) -> Any:
            return self.block(chosen[self.seed])

    chosen = [0, 0]
    upper: Any = found.upper
    lower: Any = found.lower
    pair = Bilevel(
        upper=Fixed(loss=held_out, data=upper.data, size=3, seed=1),
        lower=Fixed(loss=ridge, data=lower.data, size=3, seed=0),
    )
    sums = [torch.zeros_like(PHI) for _ in range(3)]
    for chosen[0], chosen[1] in itertools.product(range(4), range(4)):
        each = directions(pair, state)
        parts = (each.theta, each.phi, each.v)
        sums = [a + b / 16 for a, b in zip(sums, parts, strict=True)]
    chosen = [0, 0]
    whole = directions(problem(M), state)
    for mean, exact in zip(sums, (whole.theta, whole.phi, whole.v), strict=True):
        torch.testing.assert_close(mean, exact, rtol=1e-13, atol=1e-13)


def test_the_neumann_series_is_unbiased_over_all_orders_of_blocks() -> None:
    lower: Any = problem().lower
    c, size = torch.ones(Q, dtype=torch.float64), 0.2
    eye = torch.eye(Q, dtype=torch.float64)
    hessians = [
        torch.func.hessian(lambda phi, b=b: b(THETA, phi))(PHI)
        for b in (lower.block(i) for i in range(4))
    ]
    whole = torch.stack(hessians).mean(dim=0)
    exact = size * sum(torch.linalg.matrix_power(eye - size * whole, q) @ c for q in range(3))
    mean = torch.zeros_like(c)
    for first, second in itertools.product(hessians, hessians):
        one = (eye - size * first) @ c
        mean += size * (c + one + (eye - size * second) @ one) / 16
    torch.testing.assert_close(mean, exact, rtol=1e-13, atol=1e-13)


def test_soba_is_what_numpy_computes_for_100_steps() -> None:
    method = SOBA(step_size=decaying(0.3), upper_step_size=decaying(0.2))
    both: Any = problem()
    state = method.start(both, THETA, PHI)
    theta, phi, v = (np.zeros(Q) for _ in range(3))
    for k in range(100):
        (x, y), w = both.lower.batch(k).examples, both.lower.batch(k).weight
        (xo, yo), wo = both.upper.batch(k).examples, both.upper.batch(k).weight
        x, y, xo, yo = (part.numpy() for part in (x, y, xo, yo))
        penalty = np.exp(theta)
        slope = w * (x.T @ (x @ phi - y) / len(y) + penalty * phi)
        product = w * (x.T @ (x @ v) / len(y) + penalty * v)
        cross = w * penalty * phi * v
        c = wo * (xo.T @ (xo @ phi - yo) / len(yo))
        direct = wo * theta / 2
        rate = (k + 1) ** -0.5
        phi, v = phi - 0.3 * rate * slope, v - 0.3 * rate * (product - c)
        theta = theta - 0.2 * rate * (direct - cross)
        state = method.step(both, state)
        for ours, theirs in ((state.theta, theta), (state.phi, phi), (state.v, v)):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-12)


def ended(method: Any, steps: int, size: int = 3) -> State[Tensor, Tensor]:
    """Where a method is after so many steps."""
    both = problem(size)
    state: State[Tensor, Tensor] = method.start(both, THETA, PHI)
    for _ in range(steps):
        state = method.step(both, state)
    return state


def test_saba_converges_at_constant_steps_where_soba_ends_at_a_floor() -> None:
    saba, soba = ended(METHODS[1], 700), ended(METHODS[0], 300)
    # linear convergence, by 5 % a step at the best: 700 steps reach rounding; a constant
    # step's noise stays
    assert true_slope(saba.theta).norm() < 1e-10
    assert true_slope(soba.theta).norm() > 1e-4
    torch.testing.assert_close(saba.phi, minimiser(saba.theta), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_on_all_data_every_method_finds_the_solution(method: Any) -> None:
    state = ended(method, 400 if isinstance(method, SOBA | SABA) else 150, size=M)
    slope = true_slope(state.theta).norm()
    if isinstance(method, F2SA):
        # off by O(1/weight): the weight is 150 at the end
        assert slope < 0.02
    elif isinstance(method, StocBiO):
        # the series leaves (1 - s mu)^21 of v out, a tenth, a bias that no step removes
        assert slope < 0.1
    else:
        assert slope < 1e-6
    assert slope < true_slope(THETA).norm() / 3


def test_schedules_are_powers_of_the_step_counted_from_one() -> None:
    assert [decaying(0.5)(step) for step in (0, 3)] == [0.5, 0.25]
    assert [growing(0.5, 1.0)(step) for step in (0, 3)] == [0.5, 2.0]
    by_default: Any = F2SA(step_size=0.1, upper_step_size=0.1).weight
    assert by_default(0) == 1
    assert by_default(127) == pytest.approx(2, rel=1e-14)  # the seventh root of 128


def test_methods_are_values() -> None:
    """Equal if their settings are, and pickled, as a run's settings may be."""
    method = F2SA(step_size=decaying(0.1), upper_step_size=0.1)
    assert method == F2SA(step_size=decaying(0.1), upper_step_size=0.1)
    assert method != F2SA(step_size=decaying(0.2), upper_step_size=0.1)
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_restored_state_goes_on_to_the_bit(method: Any) -> None:
    both = problem()
    state = method.start(both, THETA, PHI)
    for _ in range(5):
        state = method.step(both, state)
    saved = state.state_dict()
    assert all(tensor.is_contiguous() for tensor in saved.values())
    again = method.start(both, THETA, PHI).restored(saved)
    for _ in range(5):
        state, again = method.step(both, state), method.step(both, again)
    one, other = state.state_dict(), again.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_states_adjoint_is_a_first_guess_of_its_shape() -> None:
    def nested(theta: Tensor, phi: Any, examples: Any) -> Tensor:
        return ridge(theta, torch.cat([phi["a"].reshape(-1), phi["b"]]), examples)

    def held_nested(theta: Tensor, phi: Any, examples: Any) -> Tensor:
        return held_out(theta, torch.cat([phi["a"].reshape(-1), phi["b"]]), examples)

    both: Any = Bilevel(
        upper=Minibatched(loss=held_nested, data=drawn(1), size=M),
        lower=Minibatched(loss=nested, data=drawn(0), size=M),
    )
    phi = {"a": PHI[:2].reshape(2, 1), "b": PHI[2:]}
    state: Any = METHODS[0].start(both, THETA, phi)
    for _ in range(300):
        state = METHODS[0].step(both, state)
    assert [leaf.shape for leaf in state.adjoint.values()] == [(2, 1), (2,)]
    cold, warm = (
        hypergradient(both, state.theta, state.phi, solver=CG(rtol=1e-3), start=start)
        for start in (None, state.adjoint)
    )
    # v has converged to 1e-3, so that the first guess is the answer, without a step
    assert warm.certificate.adjoint.steps == 0
    assert cold.certificate.adjoint.steps > 0


def test_a_data_set_with_a_loader_gives_the_same_blocks() -> None:
    x, y = drawn(0)
    data = TensorDataset(x, y)

    def fetch(indices: Tensor) -> Any:
        return next(iter(DataLoader(data, batch_sampler=[indices.tolist()])))

    lazy: Any = Minibatched(loss=ridge, data=fetch, size=3, examples=M)
    held: Any = problem().lower
    assert all(
        torch.equal(a, b)
        for a, b in zip(lazy.batch(5).examples, held.batch(5).examples, strict=True)
    )


def test_what_is_refused() -> None:
    x, y = drawn(0)
    with pytest.raises(InputError, match="between 1 and all 11"):
        Minibatched(loss=ridge, data=(x, y), size=12)
    part = Minibatched(loss=ridge, data=(x, y), size=2)
    object.__setattr__(part, "size", 2.5)  # past the runtime checker
    with pytest.raises(InputError, match="Minibatched got size=2.5"):
        part.__post_init__()
    variance_reduced = SABA(step_size=0.1, upper_step_size=0.1)
    for other in (State.begin(THETA, PHI), variance_reduced.start(problem(2), THETA, PHI)):
        with pytest.raises(InputError, match="SABA got a state whose memory has the rows"):
            variance_reduced.step(problem(5), other)
    with pytest.raises(InputError, match="count the same examples"):
        Minibatched(loss=ridge, data=(x, y[:5]), size=2)
    with pytest.raises(InputError, match="examples= where data is a function"):
        Minibatched(loss=ridge, data=lambda i: (x[i], y[i]), size=2)
    whole = Bilevel(upper=lambda theta, phi: phi.sum(), lower=problem().lower)
    short: Any = Minibatched(loss=ridge, data=lambda i: (x[i][1:], y[i][1:]), size=2, examples=M)
    with pytest.raises(InputError, match=r"for 2 examples, and got .* begin with \[1\]"):
        short.batch(0)
    with pytest.raises(InputError, match="upper objective is a function, which has no batches"):
        METHODS[0].start(whole, THETA, PHI)
    with pytest.raises(InputError, match="lower objective is a function, which has no batches"):
        hypergradient(
            Bilevel(upper=held(y), lower=lambda theta, phi: (theta * phi).square().sum()),
            THETA,
            PHI,
            curvature=Subsampled(blocks=1),
        )
    mapped: Any = problem().lower
    with pytest.raises(TransformError, match=r"Subsampled.*curvature=Hessian\(\)"):
        torch.func.jacrev(
            lambda t: attach(mapped, t, minimiser(THETA), curvature=Subsampled(blocks=1))
        )(THETA)
    each: Any = Minibatched(
        loss=lambda theta, phi, e: (e[0] @ phi - e[1]).square(), data=(x, y), size=2
    )
    with pytest.raises(InputError, match="return one value, the mean"):
        each(THETA, PHI)
    with pytest.raises(InputError, match="step_size"):
        SOBA(step_size=-1.0, upper_step_size=0.1)
    for weight in (0.0, float("inf"), lambda step: -1.0):
        with pytest.raises(InputError, match="weight is .* at step 0; give a positive"):
            F2SA(step_size=0.1, upper_step_size=0.1, weight=weight)
    for schedule in (decaying, growing):
        with pytest.raises(InputError, match=f"{schedule.__name__} got power=2"):
            schedule(1.0, 2.0)
    with pytest.raises(InputError, match="at step 0 got step_size=-1"):
        SOBA(step_size=lambda step: -1.0, upper_step_size=0.1).step(
            problem(), State.begin(THETA, PHI)
        )
    with pytest.raises(InputError, match="theta.0"):
        State.begin(THETA, PHI).restored(State.begin(THETA[:2], PHI).state_dict())
    half = State.begin(THETA.float(), PHI.float()).state_dict()
    with pytest.raises(InputError, match=r"phi.0, theta.0, v are .*dtype"):
        State.begin(THETA, PHI).restored(half)


def test_what_is_no_number_is_refused() -> None:
    for value in ("1", None, torch.ones(2), True):
        with pytest.raises(InputError, match="weight is .* at step 3; give a positive"):
            check_weight(value, 3)
        with pytest.raises(InputError, match="growing got power="):
            check_power("growing", value)


def held(y: Tensor) -> Any:
    """An upper objective without batches."""
    return lambda theta, phi: (phi.sum() - y.sum()).square()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_method_that_diverges_says_so(method: Any) -> None:
    wild = replace(method, step_size=1e8)
    with pytest.raises(NotFiniteError):
        ended(wild, 60)
