"""Warm starts: a value that keeps each task's phi and v, and what that buys."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from hypergrad import (
    CG,
    Bilevel,
    Certificate,
    Cholesky,
    GradientDescent,
    Implicit,
    Newton,
    argmin,
    attach,
    hypergradient,
)
from hypergrad.errors import InputError
from hypergrad.theory.warm import WarmStarts
from hypergrad.tree import Tree, flatten, leaves, like

P, Q, M = 3, 6, 4
KAPPA, BEND = 20.0, 0.5
F64 = torch.float64
EXACT = Newton(rtol=0.0, solver=Cholesky())


class LogCosh:
    """The family LC of theory.md section 1, M tasks; mu = 1, L = KAPPA to the digit."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=F64)

        spectrum = torch.linspace(1, KAPPA - BEND, Q, dtype=F64)
        basis = torch.linalg.qr(draw(M, Q, Q)).Q
        self.a = basis @ torch.diag(spectrum) @ basis.mT
        self.b, self.c, self.w = draw(M, Q, P), draw(M, Q), draw(Q, P) / 3
        self.p, self.r, self.t = draw(M, Q, Q) / Q**0.5, draw(M, Q, P) / 3, draw(M, Q)
        self.tasks = torch.arange(M)

    def of(self, tasks: Tensor) -> Bilevel[Tensor, Tensor]:
        """The problem of some tasks, in their order."""
        a, b, c = self.a[tasks], self.b[tasks], self.c[tasks]
        p, r, t = self.p[tasks], self.r[tasks], self.t[tasks]

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            curved = (phi * (a @ phi[..., None])[..., 0]).sum(-1) / 2
            bent: Tensor = torch.log(torch.cosh(phi - self.w @ theta)).sum(-1)
            values: Tensor = curved - (phi * (b @ theta + c)).sum(-1) + BEND * bent
            return values

        def upper(theta: Tensor, phi: Tensor) -> Tensor:
            fit = (p @ phi[..., None])[..., 0] + r @ theta - t
            return torch.log(torch.cosh(fit)).sum(-1) + theta.square().sum() / 10

        return Bilevel(upper=upper, lower=lower)

    def gradient(self, theta: Tensor) -> Tensor:
        """The exact one, of the mean over all tasks."""
        problem = self.of(self.tasks)
        phi = EXACT.minimise(problem.lower, theta, torch.zeros(M, Q, dtype=F64)).phi
        return hypergradient(problem, theta, phi, solver=Cholesky()).grad


FAMILY = LogCosh()
K, N, ETA = 5, 1, 0.3
BY = GradientDescent(max_steps=K, step_size=1 / KAPPA)
Starts = WarmStarts[Tensor]
State = tuple[Tensor, Starts]


def fresh() -> State:
    return torch.ones(P, dtype=F64), WarmStarts(first=torch.zeros(Q, dtype=F64))


def step(state: State, keys: Sequence[int]) -> State:
    """One upper step from where the tasks' solves ended when they were last visited."""
    theta, starts = state
    problem = FAMILY.of(torch.tensor(keys))
    phi, v = starts.gather(keys)
    phi = BY.minimise(problem.lower, theta, phi).phi
    found = hypergradient(problem, theta, phi, solver=CG(rtol=0.0, max_steps=N), start=v)
    return theta - ETA * found.grad, starts.updated(keys, phi, found.certificate.adjoint.x)


def cold(state: State, keys: Sequence[int]) -> State:
    """The same, forgetting what was known."""
    theta, _ = step((state[0], fresh()[1]), keys)
    return theta, state[1]


def only_phi(state: State, keys: Sequence[int]) -> State:
    """The same, forgetting v."""
    theta, starts = step(
        (state[0], Starts(first=state[1].first, phi=state[1].phi, v=state[1].v)), keys
    )
    zero = {key: torch.zeros(Q, dtype=F64) for key in starts.v}
    return theta, WarmStarts(first=starts.first, phi=starts.phi, v=zero)


def run(advance: Callable[[State, Sequence[int]], State], steps: int, state: State) -> State:
    for _ in range(steps):
        state = advance(state, range(M))
    return state


def test_five_and_one_steps_stall_from_cold_and_converge_from_warm() -> None:
    start = FAMILY.gradient(fresh()[0]).norm()
    floors = {}
    for advance in (cold, only_phi):
        half = run(advance, 50, fresh())
        near, far = (FAMILY.gradient(end[0]).norm() for end in (half, run(advance, 40, half)))
        # it has converged: to a point that is none of F's (theory.md section 3, cold start)
        assert abs(near - far) <= 1e-2 * far
        floors[advance.__name__] = far
    warm = FAMILY.gradient(run(step, 220, fresh())[0]).norm()
    assert floors["cold"] > 1e-2 * start
    assert floors["only_phi"] > 1e-3 * start
    # rounding of theta through L_F, below 100 here
    assert warm <= 1e4 * torch.finfo(F64).eps * start
    assert warm < 1e-9 * min(floors.values())


def saved_and_loaded(starts: Starts) -> Starts:
    buffer = io.BytesIO()
    torch.save(starts.state_dict(), buffer)
    buffer.seek(0)
    loaded: dict[str, Tensor] = torch.load(buffer, weights_only=True)
    return WarmStarts.from_state(dict(sorted(loaded.items())))


def schedule(steps: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randperm(M, generator=generator)[:2].tolist() for _ in range(steps)]


def test_a_saved_and_restored_run_goes_on_to_the_bit() -> None:
    batches = schedule(40)
    state = fresh()
    for keys in batches[:15]:
        state = step(state, keys)
    resumed = (state[0].clone(), saved_and_loaded(state[1]))
    for keys in batches[15:]:
        state, resumed = step(state, keys), step(resumed, keys)
    assert torch.equal(state[0], resumed[0])
    for one, other in zip(state[1].gather(range(M)), resumed[1].gather(range(M)), strict=True):
        assert torch.equal(one, other)


def test_tasks_visited_by_chance_keep_their_own_state() -> None:
    state = fresh()
    expected = {key: (torch.zeros(Q, dtype=F64), torch.zeros(Q, dtype=F64)) for key in range(M)}
    for keys in schedule(25):
        theta, before = state
        state = step(state, keys)
        phi, v = state[1].gather(range(M))
        for key in range(M):
            if key not in keys:
                assert torch.equal(phi[key], expected[key][0])
                assert torch.equal(v[key], expected[key][1])
            else:
                # alone, from its own state: the same but for the batched kernels' rounding
                alone = step((theta, before), [key])[1].gather([key])
                assert torch.allclose(phi[key], alone[0][0], rtol=1e-12, atol=1e-13)
                assert torch.allclose(v[key], alone[1][0], rtol=1e-10, atol=1e-12)
            expected[key] = (phi[key], v[key])


def test_an_update_leaves_the_old_value_alone_and_holds_copies() -> None:
    _, starts = fresh()
    phi, v = torch.ones(2, Q, dtype=F64), torch.full((2, Q), 2.0, dtype=F64)
    new = starts.updated([7, "seven"], phi, v)
    assert not starts.phi
    phi.zero_()
    assert torch.equal(new.gather(["seven"])[0], torch.ones(1, Q, dtype=F64))
    assert torch.equal(new.gather(["seven", 8, 7])[1][:, 0], torch.tensor([2.0, 0, 2], dtype=F64))
    again = new.updated([7, 7], torch.stack([phi[0], phi[0] + 5]), v)
    assert torch.equal(again.gather([7])[0], torch.full((1, Q), 5.0, dtype=F64))
    assert set(saved_and_loaded(new).phi) == {7, "seven"}  # an int stays one


def test_a_dict_of_leaves_in_its_own_order() -> None:
    first = {"weight": torch.zeros(2, 3), "a bias": torch.zeros(())}
    starts: WarmStarts[dict[str, Tensor]] = WarmStarts(first=first)
    phi, v = starts.gather(["x", "y"])
    assert phi["weight"].shape == (2, 2, 3)
    assert phi["a bias"].shape == (2,)
    adjoint = torch.arange(14.0).reshape(2, 7)
    new = starts.updated(
        ["x", "y"], {"weight": phi["weight"] + 1, "a bias": phi["a bias"] + 2}, adjoint
    )
    loaded: WarmStarts[dict[str, Tensor]] = WarmStarts.from_state(
        dict(sorted(new.state_dict().items()))
    )
    for value in (new, loaded):
        phi, v = value.gather(["y", "z"])
        assert list(phi) == ["weight", "a bias"]  # the layout of vectors depends on it
        assert torch.equal(v["weight"][0].flatten(), adjoint[1, :6])
        assert torch.equal(v["a bias"], torch.tensor([13.0, 0.0]))
        assert torch.equal(phi["a bias"], torch.tensor([2.0, 0.0]))
    empty: WarmStarts[dict[str, Tensor]] = WarmStarts.from_state(starts.state_dict())
    assert not empty.phi
    assert list(empty.first) == list(first)


def test_the_state_is_plain_contiguous_tensors_of_their_own() -> None:
    state = run(step, 2, fresh())[1].state_dict()
    assert set(state) == {"index", "first", "phi", "v"}
    assert state["phi"].shape == state["v"].shape == (M, Q)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in state.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == 4


def test_what_warm_starts_refuse() -> None:
    starts = fresh()[1]
    phi, v = torch.zeros(2, Q, dtype=F64), torch.zeros(2, Q, dtype=F64)
    with pytest.raises(InputError, match="no key"):
        starts.gather([])
    with pytest.raises(InputError, match=r"phi has shape \(2, 6\); for 3 tasks.*\(3, 6\)"):
        starts.updated([1, 2, 3], phi, v)
    with pytest.raises(InputError, match=r"v has shape \(2, 5\).*certificate\.adjoint\.x"):
        starts.updated([1, 2], phi, v[:, :5])
    with pytest.raises(InputError, match="tree like first"):
        WarmStarts(first={"a": phi}).updated([1], {"b": phi[None]}, v[:1])
    with pytest.raises(InputError, match="no state of WarmStarts"):
        WarmStarts.from_state({"phi": phi})
    with pytest.raises(InputError, match="different tasks"):
        WarmStarts(first=phi[0], phi={1: phi[0]})


@pytest.mark.parametrize("face", ["attach", "argmin"])
def test_attach_and_implicit_start_the_adjoint_where_they_are_told(face: str) -> None:
    problem = FAMILY.of(FAMILY.tasks)
    theta = torch.ones(P, dtype=F64)
    phi0 = EXACT.minimise(problem.lower, theta, torch.zeros(M, Q, dtype=F64)).phi
    solver = CG(rtol=1e-8)
    seen: list[Certificate] = []

    def backward(start: Tensor | None) -> Tensor:
        leaf = theta.clone().requires_grad_()
        if face == "attach":
            phi = attach(problem.lower, leaf, phi0, solver=solver, watch=seen.append, start=start)
        else:
            by = GradientDescent(max_steps=0, step_size=1.0)
            adjoint = Implicit(solver, start=start)
            phi = argmin(problem.lower, leaf, phi0, by=by, adjoint=adjoint, watch=seen.append)
        problem.upper(leaf, phi).mean().backward()
        assert leaf.grad is not None
        return leaf.grad

    first = backward(None)
    again = backward(seen[0].adjoint.x)
    assert int(seen[0].adjoint.steps.max()) > 1
    assert int(seen[1].adjoint.steps.max()) == 0  # it was solved when it began
    assert torch.allclose(first, again, rtol=1e-7)
    with pytest.raises(InputError, match=r"start has shape \(4, 5\)"):
        backward(torch.zeros(M, Q - 1, dtype=F64))


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (torch.tensor(3), 3),
        (torch.tensor(3, dtype=torch.int8), 3),
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.str_("cat"), "cat"),
    ],
    ids=repr,
)
def test_keys_as_samplers_yield_them_find_their_task(given: Any, plain: int | str) -> None:
    one = torch.ones(1, 2)
    starts = WarmStarts(first=torch.zeros(2)).updated([given], one, one)
    for key in (given, plain):
        assert torch.equal(starts.gather([key])[0], one)
    back = WarmStarts[Tensor].from_state(starts.state_dict())
    assert torch.equal(back.gather([plain])[0], one)
    assert [type(key) for key in back.phi] == [type(plain)]


@pytest.mark.parametrize(
    "key", [True, 3.0, None, (1, 2), torch.tensor(3.0), torch.ones(1).long()], ids=repr
)
def test_other_keys_are_refused(key: Any) -> None:
    starts, one = WarmStarts(first=torch.zeros(2)), torch.ones(1, 2)
    with pytest.raises(InputError, match="integers or strings"):
        untyped(starts.updated)(starts, [key], one, one)
    with pytest.raises(InputError, match="integers or strings"):
        untyped(starts.gather)(starts, [key])


def untyped(method: Any) -> Any:
    """A method past the runtime checker, which users don't have on."""
    return inspect.unwrap(method.__func__)


@pytest.mark.parametrize(
    "first",
    [
        torch.arange(6.0).reshape(3, 2).T,
        torch.arange(96.0).reshape(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.arange(3.0)[:, None].expand(3, 5),
        {"a": torch.arange(6.0).reshape(3, 2).T, "b": torch.arange(4.0)[::2]},
    ],
    ids=["transposed", "channels-last", "expanded", "dict"],
)
def test_the_state_of_strided_leaves_is_contiguous(first: Tree) -> None:
    starts: WarmStarts[Any] = WarmStarts(first=first)
    size = sum(leaf.numel() for leaf in leaves(first))
    phi = like(cast(Any, first), [torch.stack([leaf]) for leaf in leaves(first)])
    starts = starts.updated([1], phi, torch.ones(1, size))
    state = starts.state_dict()
    assert all(leaf.is_contiguous() for leaf in state.values())
    back: WarmStarts[Any] = WarmStarts.from_state(state)
    for mine, theirs in zip(leaves(back.first), leaves(first), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(leaves(back.phi[1]), leaves(first), strict=True):
        assert torch.equal(mine, theirs)


NESTED = {
    "block": [{"w": torch.arange(6.0).reshape(2, 3).T}, (torch.zeros(2), torch.ones(()))],
    "a.b": torch.ones(1),
    "a": {"b": torch.zeros(1)},
}


def test_nested_trees_are_kept_and_survive_a_safetensors_file(tmp_path: Path) -> None:
    starts: WarmStarts[Any] = WarmStarts(first=NESTED)
    count = sum(leaf.numel() for leaf in leaves(NESTED))
    keys: list[Any] = [torch.tensor(7), "x"]  # as a sampler yields them
    phi, v = starts.gather(keys)
    moved = like(phi, [leaf + 1 for leaf in leaves(phi)])
    starts = starts.updated(keys, moved, torch.arange(2.0 * count).reshape(2, count))
    state = starts.state_dict()
    assert all(leaf.is_contiguous() for leaf in state.values())
    safetensors.torch.save_file(state, tmp_path / "starts")  # which orders its tensors anew
    back: WarmStarts[Any] = WarmStarts.from_state(safetensors.torch.load_file(tmp_path / "starts"))
    assert list(back.phi) == list(starts.phi) == [7, "x"]
    assert torch.equal(back.gather([np.int64(7)])[0]["a.b"], torch.full((1, 1), 2.0))
    for value in (starts, back):
        phi, v = value.gather(["x"])
        assert isinstance(phi["block"][1], tuple)
        assert torch.equal(phi["block"][0]["w"][0], NESTED["block"][0]["w"] + 1)  # type: ignore[index]
        assert torch.equal(flatten(leaves(v), torch.Size([1]))[0], torch.arange(count) + count)
    assert torch.equal(back.first["a"]["b"], torch.zeros(1))


def test_a_dict_in_another_order_is_the_same_tree() -> None:
    first = {"a": torch.zeros(2), "b": torch.zeros(1)}
    turned = {"b": torch.tensor([[3.0]]), "a": torch.tensor([[1.0, 2.0]])}
    v = torch.tensor([[6.0, 4.0, 5.0]])  # laid out as phi is
    starts: WarmStarts[Any] = WarmStarts(first=first).updated(["t"], turned, v)
    phi, v_tree = starts.gather(["t"])
    assert list(phi) == ["a", "b"]
    assert torch.equal(phi["a"], turned["a"])
    assert torch.equal(v_tree["a"], torch.tensor([[4.0, 5.0]]))
    assert torch.equal(v_tree["b"], torch.tensor([[6.0]]))


class Unsaved(NamedTuple):
    """A container that torch's pytree knows, and can't write down."""

    w: Tensor


def test_containers_that_can_not_be_saved_say_so() -> None:
    starts: WarmStarts[Any] = WarmStarts(first=Unsaved(torch.zeros(2)))
    with pytest.raises(InputError, match="can't be saved"):
        starts.state_dict()
