"""Ways to weight the digits of benchmarks/digits.py: this library's, Betty's and TorchOpt's.

Each trains the same network from the same start by AdamW on the same batches, and takes the same
upper steps by Adam; what differs is how the derivative of the clean loss in the weights is found.
Peers are looked up at run time: they live in a virtual environment of their own, or are absent.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from benchmarks.digits import SIZE, TRAIN, Data, Phi, initial, loss, network
from benchmarks.peer_entries import peer
from hypergrad import CG, GradientDescent, Neumann, Unrolled, argmin, attach, curvature, updates
from hypergrad.stochastic import Minibatched, Subsampled

EPOCHS: Final = 2  # between upper steps
RATE, UPPER_RATE = 1e-2, 0.5
NAMES: Final = tuple(initial(torch.Generator()))

Examples = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """Data, batches and starts of one seed.

    Attributes:
        data: digits, some with wrong labels.
        every: all training examples: pictures, labels, places.
        blocks: the same, as a sum over blocks.
        batches: batches of one run, in order.
        steps: upper steps.
    """

    data: Data
    every: Examples
    blocks: Minibatched[Tensor, Phi]
    batches: list[Examples]
    steps: int
    seed: int

    @classmethod
    def drawn(cls, seed: int, steps: int) -> Task:
        """The batches are those that `Minibatched` draws."""
        data = Data.drawn(seed)
        every = (data.x, data.y, torch.arange(TRAIN))
        lower: Minibatched[Tensor, Phi] = Minibatched(loss=loss, data=every, size=SIZE, seed=seed)
        count = (steps + 1) * EPOCHS * lower.blocks
        batches: Any = [lower.batch(key).examples for key in range(count)]
        return cls(data, every, lower, batches, steps, seed)

    @property
    def between(self) -> int:
        """Lower steps between two upper steps."""
        return len(self.batches) // (self.steps + 1)

    def start(self) -> tuple[Tensor, Phi]:
        """Theta, and the network's weights."""
        phi = initial(torch.Generator().manual_seed(100 + self.seed))
        return torch.zeros(TRAIN, requires_grad=True), {
            name: leaf.requires_grad_() for name, leaf in phi.items()
        }

    def lower(self, theta: Tensor, phi: Phi) -> Tensor:
        """The loss on all training examples."""
        return loss(theta, phi, self.every)

    def upper(self, phi: Phi) -> Tensor:
        """The loss on the clean ones."""
        x, y = self.data.clean
        return cross_entropy(network(phi, x), y)


Run = Callable[[Task], tuple[Tensor, Phi]]
Derivative = Callable[[Task, Tensor, Phi], Phi]
"""Makes the trained network differentiable in theta."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of one library.

    Attributes:
        package: whose.
        how: its settings, for the table.
        run: trains and weights; theta and the network's weights at the end.
    """

    package: str
    how: str
    run: Run


def trained(task: Task, theta: Tensor, phi: Phi) -> Iterator[int]:
    """Train in place; pause after each `between` steps with the number of the pause."""
    optimiser = torch.optim.AdamW(phi.values(), lr=RATE)
    for count, batch in enumerate(task.batches, start=1):
        optimiser.zero_grad()
        loss(theta.detach(), phi, batch).backward()
        optimiser.step()
        if count % task.between == 0:
            yield count // task.between


def looped(derivative: Derivative | None) -> Run:
    """A plain loop with a derivative taken at each pause; None: no weights."""

    def run(task: Task) -> tuple[Tensor, Phi]:
        theta, phi = task.start()
        optimiser = torch.optim.Adam([theta], lr=UPPER_RATE)
        for pause in trained(task, theta, phi):
            if derivative is None or pause > task.steps:
                continue
            optimiser.zero_grad()
            copies = {name: leaf.detach().clone() for name, leaf in phi.items()}
            task.upper(derivative(task, theta, copies)).backward()
            optimiser.step()
        return theta, phi

    return run


def stepped(window: int, *, rerun: bool = False) -> Run:
    """AdamW's own steps as a pure function, the last few before each pause differentiated.

    With `rerun` a step keeps its start only, and backward takes the step again.
    """
    adamw = updates.AdamW(step_size=RATE)

    def step(theta: Tensor, batch: Examples, count: int, phi: Phi, memory: Any) -> Any:
        slopes = torch.autograd.grad(loss(theta, phi, batch), list(phi.values()), create_graph=True)
        gradient = dict(zip(phi, slopes, strict=True))
        return adamw(phi, gradient, memory, count)

    def run(task: Task) -> tuple[Tensor, Phi]:
        theta, phi = task.start()
        memory: tuple[Tensor, ...] = ()
        optimiser = torch.optim.Adam([theta], lr=UPPER_RATE)
        for count, batch in enumerate(task.batches, start=1):
            left = -count % task.between  # steps before the next pause
            seen = theta if left < window else theta.detach()
            taken = partial(step, seen, batch, count, phi, memory)
            phi, memory = checkpoint(taken, use_reentrant=False) if rerun else taken()
            if left == 0 and count <= task.steps * task.between:
                optimiser.zero_grad()
                task.upper(phi).backward()
                optimiser.step()
            if left == 0 or left >= window:
                phi = {name: leaf.detach().requires_grad_() for name, leaf in phi.items()}
                memory = tuple(part.detach() for part in memory)
        return theta, phi

    return run


def ways() -> Iterator[Way]:
    """No weights, the first; then this library's ways, and those of the peers that are there."""
    yield Way(package="", how="no weights", run=looped(None))
    yield from _ours()
    if peer("betty") is not None:
        yield from _betty()
    if peer("torchopt") is not None:
        yield from _torchopt()


def _ours() -> Iterator[Way]:
    def attached(solver: Any) -> Run:
        return looped(lambda task, theta, phi: attach(task.lower, theta, phi, solver=solver))

    def sampled(solver: Any) -> Derivative:
        two = Subsampled(blocks=2)
        return lambda task, theta, phi: attach(
            task.blocks, theta, phi, solver=solver, curvature=two
        )

    def differences(task: Task, theta: Tensor, phi: Phi) -> Phi:
        by = Neumann(step_size=0.1, max_steps=1)
        return attach(task.lower, theta, phi, solver=by, curvature=curvature.FiniteDifference())

    def unrolled(task: Task, theta: Tensor, phi: Phi) -> Phi:
        by = GradientDescent(max_steps=10, step_size=0.1)
        return argmin(task.lower, theta, phi, by=by, adjoint=Unrolled())

    for how, solver in {
        "Neumann(step_size=0.1, max_steps=1)": Neumann(step_size=0.1, max_steps=1),
        "Neumann(step_size=0.1, max_steps=10)": Neumann(step_size=0.1, max_steps=10),
        "CG(damping=1.0, rtol=1e-2)": CG(damping=1.0, rtol=1e-2),
        'CG(damping="auto", rtol=1e-3, max_steps=100)': CG(
            damping="auto", rtol=1e-3, max_steps=100
        ),
    }.items():
        yield Way(package="hypergrad", how=how, run=attached(solver))
    for how, solver in {
        'CG(damping="auto", rtol=1e-3, max_steps=100)': CG(
            damping="auto", rtol=1e-3, max_steps=100
        ),
        "CG(damping=1.0, rtol=1e-2)": CG(damping=1.0, rtol=1e-2),
    }.items():
        yield Way(
            package="hypergrad", how=f"{how}, Subsampled(blocks=2)", run=looped(sampled(solver))
        )
    yield Way(
        package="hypergrad",
        how="Neumann(step_size=0.1, max_steps=1), FiniteDifference()",
        run=looped(differences),
    )
    yield Way(package="hypergrad", how="Unrolled(), 10 gradient steps", run=looped(unrolled))
    for how, run in {
        "updates.AdamW, all 16 steps": stepped(16),
        "updates.AdamW, all 16 steps, each in a checkpoint": stepped(16, rerun=True),
        "updates.AdamW, the last 12 steps": stepped(12),
        "updates.AdamW, the last 8 steps": stepped(8),
        "updates.AdamW, the last 4 steps": stepped(4),
    }.items():
        yield Way(package="hypergrad", how=how, run=run)


class Held(torch.nn.Module):
    """A module that holds tensors by name, for what trains modules; a call is the lower loss."""

    def __init__(self, values: Phi) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, torch.nn.Parameter(value.detach().clone()))

    def values(self) -> Phi:
        """The tensors held now; a differentiated optimiser exchanges them."""
        found: dict[str, Any] = {**self._parameters}
        return found

    def forward(self, theta: Tensor, batch: Examples) -> Tensor:
        return loss(theta, self.values(), batch)


@dataclass(frozen=True)
class Betty:
    """An Engine of two problems, whose adjoint sees the last batch, as it does, or all data."""

    config: dict[str, Any]
    every: bool = field(default=False, kw_only=True)

    def __call__(self, task: Task) -> tuple[Tensor, Phi]:
        """Run the engine, and the lower steps after the last upper one by the same optimiser."""
        problems: Any = peer("betty.problems")
        engines, configs = peer("betty.engine"), peer("betty.configs")
        theta, phi = task.start()
        weights, net, turns = Held({"theta": theta}), Held(phi), iter(task.batches)
        whole = self.every

        class Lower(problems.ImplicitProblem):  # type: ignore[misc]
            def training_step(self, batch: Examples) -> Tensor:
                found: Tensor = net(weights.values()["theta"], batch)
                return found

            def get_batch(self) -> Examples:
                return next(turns)

            def param_callback(self) -> None:  # after each step: what the adjoint will see
                if whole:
                    self.cur_batch = task.every

        class Upper(problems.ImplicitProblem):  # type: ignore[misc]
            def training_step(self, batch: None) -> Tensor:
                return task.upper(net.values())

            def get_batch(self) -> None:
                return None

        above = Upper(
            name="upper",
            module=weights,
            optimizer=_Adam(weights.parameters(), lr=UPPER_RATE),
            config=configs.Config(retain_graph=True),
        )
        below = Lower(
            name="lower",
            module=net,
            optimizer=_AdamW(net.parameters(), lr=RATE),
            config=configs.Config(unroll_steps=task.between, **self.config),
        )
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            logging.disable()
            engine = engines.Engine(
                problems=[above, below],
                config=engines.EngineConfig(
                    strategy="cpu", train_iters=task.steps * task.between, valid_step=10**9
                ),
                dependencies={"u2l": {above: [below]}, "l2u": {below: [above]}},
            )
            engine.run()
            logging.disable(logging.NOTSET)
        for batch in turns:
            below.optimizer.zero_grad()
            net(weights.values()["theta"].detach(), batch).backward()
            below.optimizer.step()
        return weights.values()["theta"], net.values()


class _Adam(torch.optim.Adam):
    """An Adam that the engine can make again from its defaults."""

    def __init__(self, params: Any, *, lr: float, **_: Any) -> None:
        super().__init__(params, lr=lr)


class _AdamW(torch.optim.AdamW):
    """An AdamW that the engine can make again from its defaults."""

    def __init__(self, params: Any, *, lr: float, **_: Any) -> None:
        super().__init__(params, lr=lr)


def _betty() -> Iterator[Way]:
    for config in (
        {"type": "darts"},
        {"type": "sama"},
        {"type": "neumann", "neumann_iterations": 10, "neumann_alpha": 0.1},
        {"type": "cg", "cg_iterations": 10},
    ):
        settings = ", ".join(f"{name}={value!r}" for name, value in config.items())
        yield Way(package="Betty", how=settings, run=Betty(config))
        yield Way(package="Betty", how=f"{settings}; all data", run=Betty(config, every=True))


def _torchopt() -> Iterator[Way]:
    torchopt = peer("torchopt")
    solve = torchopt.linear_solve

    def rooted(solver: Any) -> Run:
        def derivative(task: Task, theta: Tensor, phi: Phi) -> Phi:
            def optimality(phi: tuple[Tensor, ...], theta: Tensor) -> tuple[Tensor, ...]:
                named = dict(zip(NAMES, phi, strict=True))
                gradient: Phi = torch.func.grad(task.lower, argnums=1)(theta, named)
                return tuple(gradient.values())

            root = torchopt.diff.implicit.custom_root(optimality, argnums=1, solve=solver)
            found = root(lambda phi, theta: phi)(tuple(phi.values()), theta)  # of tensors or tuples
            return dict(zip(NAMES, found, strict=True))

        return looped(derivative)

    def unrolled(task: Task) -> tuple[Tensor, Phi]:
        theta, phi = task.start()
        net = Held(phi)
        inner = torchopt.MetaAdamW(net, lr=RATE)
        optimiser = torch.optim.Adam([theta], lr=UPPER_RATE)
        for count, batch in enumerate(task.batches, start=1):
            inner.step(net(theta, batch))
            if count % task.between or count > task.steps * task.between:
                continue
            optimiser.zero_grad()
            task.upper(net.values()).backward()
            optimiser.step()
            torchopt.stop_gradient(net)
            torchopt.stop_gradient(inner)
        return theta, net.values()

    for how, solver in {
        "solve_cg(maxiter=100, rtol=1e-3)": solve.solve_cg(maxiter=100, rtol=1e-3),
        "solve_cg(maxiter=100, rtol=1e-3, ridge=0.1)": solve.solve_cg(
            maxiter=100, rtol=1e-3, ridge=0.1
        ),
        "solve_inv(ns=True, maxiter=10, alpha=0.1)": solve.solve_inv(
            ns=True, maxiter=10, alpha=0.1
        ),
    }.items():
        yield Way(package="TorchOpt", how=f"custom_root, {how}", run=rooted(solver))
    yield Way(package="TorchOpt", how="MetaAdamW, all steps unrolled", run=unrolled)
