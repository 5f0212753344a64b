"""Lower levels in parts, for one process that has all parts, and for ranks that have one each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hypergrad import (
    CG,
    LBFGS,
    MINRES,
    Bilevel,
    Forward,
    GradientDescent,
    Implicit,
    Nesterov,
    Newton,
    OneStep,
    TorchOptimiser,
    Truncated,
    Unrolled,
    argmin,
    attach,
    strict,
)
from hypergrad.conditions import Box, Constrained, Root
from hypergrad.distributed import Sharded, shared, total
from hypergrad.solvers import ProximalGradient
from hypergrad.stochastic import SABA, Minibatched

Part: TypeAlias = Callable[[Any, Any], Tensor]
Found: TypeAlias = dict[str, Tensor]
PARTS = 2
ROWS = (slice(0, 17), slice(17, 40))  # not the same number
COUNTS = (17.0, 23.0)
D = 4


@dataclass(frozen=True)
class Here:
    """Where a case runs: rank r has part r alone; one process, rank None, has all."""

    rank: int | None

    def join(self, parts: list[Part], weights: tuple[float, ...] = COUNTS) -> Part:
        """The weighted mean of the parts."""
        if self.rank is not None:
            return Sharded(parts[self.rank], weight=weights[self.rank])

        def whole(theta: Any, phi: Any) -> Tensor:
            terms = [w * part(theta, phi) for w, part in zip(weights, parts, strict=True)]
            return torch.stack(terms).sum(0) / sum(weights)

        return whole


def data(tasks: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*tasks, 40, D, generator=generator, dtype=torch.float64)
    return x, torch.randn(*tasks, 40, generator=generator, dtype=torch.float64)


def logistic(tasks: tuple[int, ...] = ()) -> list[Part]:
    """Logistic regression with a penalty for each feature, on each part's rows."""
    x, y = data(tasks)

    def part(rows: slice) -> Part:
        def g(theta: Tensor, phi: Tensor) -> Tensor:
            logits = (x[..., rows, :] @ phi[..., None])[..., 0]
            fit = torch.nn.functional.softplus(-logits * y[..., rows].sign()).mean(-1)
            return fit + 0.5 * (theta.exp() * phi.square()).sum(-1)

        return g

    return [part(rows) for rows in ROWS]


THETA = torch.linspace(-1.0, 0.5, D, dtype=torch.float64)
NEWTON = Newton(max_steps=50)


def upper(phi: Tensor, theta: Tensor) -> Tensor:
    return phi.pow(3).sum() + phi.sin().sum() + theta.square().sum()


def _gradient(here: Here, **options: Any) -> Tensor:
    g, theta = here.join(logistic()), THETA.clone().requires_grad_()
    phi = argmin(g, theta, torch.zeros(D).double(), watch=strict, **options)
    upper(phi, theta).backward()
    assert theta.grad is not None
    return theta.grad


def _sgd(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.5, momentum=0.3)


def adjoints(here: Here) -> Found:
    """Every adjoint after the solvers it is for."""
    steps = GradientDescent(max_steps=6, step_size=0.5)
    nesterov = Nesterov(max_steps=5, step_size=0.4)
    sgd = TorchOptimiser(make=_sgd, max_steps=300, rtol=1e-12)
    few = GradientDescent(max_steps=40, step_size=0.5, rtol=1e-3)
    descent = GradientDescent(max_steps=300, step_size=0.7, rtol=1e-12)
    return {
        "chosen": _gradient(here, by=NEWTON, adjoint=Implicit()),
        "cg": _gradient(here, by=NEWTON, adjoint=Implicit(CG(rtol=1e-13))),
        "minres": _gradient(here, by=NEWTON, adjoint=Implicit(MINRES(rtol=1e-13))),
        "lbfgs": _gradient(here, by=LBFGS(max_steps=200, rtol=0.0), adjoint=Implicit()),
        "descent": _gradient(here, by=descent, adjoint=Implicit()),
        "unrolled": _gradient(here, by=steps, adjoint=Unrolled()),
        "until": _gradient(here, by=few, adjoint=Unrolled()),
        "nesterov": _gradient(here, by=nesterov, adjoint=Unrolled()),
        "torch.optim": _gradient(here, by=sgd, adjoint=Implicit()),
        "truncated": _gradient(here, by=steps, adjoint=Truncated(steps=2)),
        "forward": _gradient(here, by=steps, adjoint=Forward()),
        "one step": _gradient(here, by=NEWTON, adjoint=OneStep(step_size=0.3)),
    }


def certificate(here: Here) -> Found:
    """The evidence at a phi that is no minimiser, for three tasks."""
    seen: list[Any] = []
    theta = THETA.clone().requires_grad_()
    phi = attach(
        here.join(logistic((3,))),
        theta,
        torch.full((3, D), 0.3).double(),
        solver=CG(max_steps=2),
        watch=seen.append,
    )
    upper(phi, theta).backward()
    (c,) = seen
    assert theta.grad is not None
    return {
        "gradient": theta.grad,
        "stationarity": c.stationarity,
        "predicted error": c.predicted_error,
        "newton step": c.newton_step,
        "residual": c.adjoint.residual,
        "status": c.adjoint.status,
        "v": c.adjoint.x,
    }


def transforms(here: Here) -> Found:
    """Second and third derivatives, and every transform of torch.func."""
    g = here.join(logistic())

    def loss(theta: Tensor) -> Tensor:
        phi = argmin(g, theta, torch.zeros(D).double(), by=NEWTON, adjoint=Implicit())
        return upper(phi, theta)

    def steps(theta: Tensor) -> Tensor:
        by = GradientDescent(max_steps=4, step_size=0.5)
        return upper(argmin(g, theta, torch.zeros(D).double(), by=by, adjoint=Unrolled()), theta)

    func, many = torch.func, torch.stack([THETA, THETA + 0.1])
    return {
        "hessian": func.hessian(loss)(THETA),
        "jacrev twice": func.jacrev(func.jacrev(loss))(THETA),
        "jacfwd": func.jacfwd(loss)(THETA),
        "vmap": func.vmap(loss)(many),
        "vmap of grad": func.vmap(func.grad(loss))(many),
        "double backward": torch.autograd.functional.hessian(loss, THETA),
        "vectorised": torch.autograd.functional.hessian(loss, THETA, vectorize=True),
        "third": func.jacrev(func.hessian(loss))(THETA),
        "unrolled": func.hessian(steps)(THETA),
        "unrolled, vmap of grad": func.vmap(func.grad(steps))(many),
    }


def uneven(here: Here) -> Found:
    """Parts that use different leaves: a penalty on one rank only, whose data have no curvature."""
    x, y = data()

    def first(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
        fit = (x[ROWS[0]] @ phi["w"] + phi["b"] - y[ROWS[0]]).square().mean()
        return fit + (theta["l2"].exp() * phi["w"].square()).sum() + phi["b"].square()

    def second(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
        return -(theta["tilt"] * phi["w"]).sum()  # linear: H = 0, and b is not used

    g = here.join([first, second], (1.0, 2.0))
    theta = {"l2": THETA.clone().requires_grad_(), "tilt": THETA.cos().requires_grad_()}
    start = {"w": torch.zeros(D).double(), "b": torch.zeros(()).double()}
    phi = argmin(g, theta, start, by=NEWTON, adjoint=Implicit(CG(rtol=1e-13)), watch=strict)
    loss = phi["w"].pow(3).sum() + phi["b"].square()
    parts = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    squares = torch.stack([part.square().sum() for part in parts]).sum()
    again = torch.autograd.grad(squares, list(theta.values()))
    found = dict(zip(["l2", "tilt", "l2 again", "tilt again"], (*parts, *again), strict=True))
    return found | _without_rows(here, first, theta["l2"], start)


def _without_rows(
    here: Here, first: Part, l2: Tensor, start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A rank whose mean over no rows is no number, and adds nothing."""

    def none(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
        return (phi["w"][:0] * theta["l2"][:0]).mean()

    g = first if here.rank is None else here.join([first, none], (1.0, 0.0))
    phi = argmin(g, {"l2": l2}, start, by=NEWTON, adjoint=Implicit(CG(rtol=1e-13)), watch=strict)
    (grad,) = torch.autograd.grad(phi["w"].pow(3).sum(), l2)
    return {"without rows": phi["w"].detach(), "its gradient": grad}


def owned(here: Here) -> Found:
    """A weight for each example where the example is, a penalty that is shared, a loss in parts."""
    x, y = data()

    def part(rows: slice, weights: Callable[[dict[str, Tensor]], Tensor]) -> Part:
        def g(theta: dict[str, Tensor], phi: Tensor) -> Tensor:
            each = (x[rows] @ phi - y[rows]).square()
            return (weights(theta).sigmoid() * each).mean() + theta["l2"].exp() * phi.square().sum()

        return g

    weights = torch.linspace(-1, 1, 40, dtype=torch.float64)
    mine = slice(0, 40) if here.rank is None else ROWS[here.rank]
    theta = {
        "weights": weights[mine].clone().requires_grad_(),
        "l2": torch.zeros((), dtype=torch.float64, requires_grad=True),
    }

    def of(rows: slice) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda theta: theta["weights"][rows]

    g: Part = here.join([part(rows, of(rows)) for rows in ROWS])
    if here.rank is not None:
        own = {"weights": True, "l2": False}
        lower = part(mine, lambda t: t["weights"])
        g = Sharded(lower, weight=COUNTS[here.rank], own=own)
    phi = argmin(g, theta, torch.zeros(D).double(), by=NEWTON, adjoint=Implicit(), watch=strict)
    if here.rank is None:
        loss = torch.stack([(x[rows] @ phi).pow(3).mean() for rows in ROWS]).sum()
    else:
        loss = (x[mine] @ shared(phi)).pow(3).mean()
    loss.backward()
    assert theta["weights"].grad is not None
    assert theta["l2"].grad is not None
    return {"weights": theta["weights"].grad, "l2": theta["l2"].grad}


def conditions(here: Here) -> Found:
    """Bounds around a sharded objective, and a root made of the operators."""
    theta = THETA.clone().requires_grad_()
    inside = Constrained(here.join(logistic()), Box(-0.1, 0.2))
    by = ProximalGradient(rtol=1e-13)
    phi = argmin(inside, theta, torch.zeros(D).double(), by=by, adjoint=Implicit(), watch=strict)
    upper(phi, theta).backward()
    parts = logistic()

    def slope(g: Part) -> Part:
        return torch.func.grad(g, argnums=1)

    def residual(theta: Tensor, phi: Tensor) -> Tensor:
        if here.rank is None:
            return torch.stack([slope(g)(theta, phi) for g in parts]).sum(0)
        return total(slope(parts[here.rank])(shared(theta), shared(phi)))

    again = THETA.clone().requires_grad_()
    with torch.no_grad():
        root = argmin(
            Here(None).join(parts, (1.0, 1.0)),
            THETA,
            torch.zeros(D).double(),
            by=NEWTON,
            adjoint=Implicit(),
        )
    upper(attach(Root(residual), again, root, watch=strict), again).backward()
    assert theta.grad is not None
    assert again.grad is not None
    return {"bounds": theta.grad, "root": again.grad}


def single_loop(here: Here) -> Found:
    """A few steps of SABA: each rank has its part of every batch of both levels."""
    x, y = data()
    parts = [slice(0, 16), slice(16, 32)]

    def loss(theta: Tensor, phi: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
        if here.rank is not None:
            theta, phi = shared(theta), shared(phi)
        fit = (rows[0] @ phi - rows[1]).square().sum() + (theta.exp() * phi.square()).sum()
        return fit / 16 if here.rank is None else total(fit) / 16

    def batched(seed: int) -> Minibatched[Tensor, Tensor]:
        if here.rank is None:  # blocks of both parts, side by side, for the same seed
            both = [torch.cat([x[rows], y[rows, None]], 1) for rows in parts]
            together = torch.stack(both, 1)
            return Minibatched(
                loss=lambda t, p, e: sum_of(loss, t, p, e), data=together, size=4, seed=seed
            )
        mine = parts[here.rank]
        return Minibatched(loss=loss, data=(x[mine], y[mine]), size=4, seed=seed)

    problem = Bilevel(upper=batched(1), lower=batched(2))
    method = SABA(step_size=0.1, upper_step_size=0.1)
    state = method.start(problem, THETA, torch.zeros(D).double())
    for _ in range(5):
        state = method.step(problem, state)
    return {"theta": state.theta, "phi": state.phi, "v": state.v}


def sum_of(loss: Callable[..., Tensor], theta: Tensor, phi: Tensor, rows: Tensor) -> Tensor:
    """The loss of both parts' rows, ``(examples, part, D + 1)``."""
    each = [loss(theta, phi, (rows[:, part, :-1], rows[:, part, -1])) for part in range(PARTS)]
    return torch.stack(each).sum()


CASES = (single_loop, adjoints, certificate, transforms, uneven, owned, conditions)
