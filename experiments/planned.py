"""K and N as Theorem A plans them, beside the published K = N = 20, on the tasks of a kept run.

The lower level is the head on the features of the run's network, in float64, and the hypergradient
is that of the support's features, through which alone the head tells the network anything. Its
constants are proven (theory.md, section 8), so that the plan is a guarantee; beside it is what
is needed, found by doubling.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float64, Int
from rich.console import Console
from torch import Tensor

from hypergrad import CG, Bilevel, GradientDescent, Newton, hypergradient
from hypergrad.objectives import SoftmaxRegression
from hypergrad.theory import Constants, Proven, plan
from metalearn.errors import RunError
from metalearn.files import write_atomically, write_json
from metalearn.methods.head import cross_entropy, one_hot, scores
from metalearn.methods.heads import LinearHeads, parts
from metalearn.methods.lower import PAPER_ADJOINT_STEPS, PAPER_STEP_SIZE, PAPER_STEPS
from metalearn.report.tables import Rows
from metalearn.runs import provenance
from metalearn.runs.folder import Run
from metalearn.runs.records import Result
from metalearn.training.build import build_model, training_sampler
from verification.problems.head import Head

SHARE: Final = 0.1
"""Error that is planned for, of the exact hypergradient's length."""
TASKS: Final = 4
_MOST: Final = 2**12  # steps that are taken of either kind; a plan of more is not tried
_EXACT: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task; errors are shares of the exact hypergradient's length.

    Attributes:
        condition: L / mu of the lower level.
        published: error at the published K, N and step size.
        K: lower steps of 1/L that the plan asks for.
        N: steps of conjugate gradients that it asks for.
        planned: error at the plan's K and N; None if they are too large to be tried.
        needed: least power of two with an error of at most the share for K = N, at steps of 1/L;
            None if none was found.
    """

    condition: float
    published: float
    K: int
    N: int
    planned: float | None
    needed: int | None


def planned(
    support: Float64[Tensor, "S D"],
    labels: Int[Tensor, " S"],
    query: Float64[Tensor, "Q D"],
    asked: Int[Tensor, " Q"],
    *,
    l2: float,
    share: float = SHARE,
) -> Task:
    """Plan for the head on these features, and try the plan."""
    way = int(labels.max()) + 1
    problem: Bilevel[Tensor, Tensor] = Bilevel(
        upper=lambda _, phi: cross_entropy(scores(phi, query), asked),
        lower=SoftmaxRegression(labels, l2),
    )
    start = support.new_zeros(way, support.shape[1])
    best = Newton(rtol=_EXACT, solver=CG(rtol=0.1)).minimise(problem.lower, support, start).phi
    exact = hypergradient(problem, support, best, solver=CG(rtol=_EXACT)).grad

    def error(steps: int, systems: int, step_size: float) -> float:
        by = GradientDescent(max_steps=steps, step_size=step_size)
        phi = by.minimise(problem.lower, support, start).phi
        found = hypergradient(problem, support, phi, solver=CG(rtol=0.0, max_steps=systems)).grad
        return float((found - exact).norm() / exact.norm())

    constants = _constants(support, labels, query, asked, l2=l2, way=way)
    distance = Proven(best.norm())
    asked_for = plan(constants, share * float(exact.norm()), distance=distance)
    K, N, alpha = asked_for.steps, asked_for.max_steps, asked_for.step_size
    powers = (2**n for n in range(_MOST.bit_length()))
    return Task(
        condition=1 / (alpha * l2),
        published=error(PAPER_STEPS, PAPER_ADJOINT_STEPS, PAPER_STEP_SIZE),
        K=K,
        N=N,
        planned=error(K, N, alpha) if max(K, N) <= _MOST else None,
        needed=next((each for each in powers if error(each, each, alpha) <= share), None),
    )


def _constants(
    support: Float64[Tensor, "S D"],
    labels: Int[Tensor, " S"],
    query: Float64[Tensor, "Q D"],
    asked: Int[Tensor, " Q"],
    *,
    l2: float,
    way: int,
) -> Constants:
    """Derived in theory.md, section 8, for the ball around phi* that the start 0 lies in."""
    y, w = (one_hot(each, way, like=support).numpy() for each in (labels, asked))
    head = Head(y=y, Z=query.numpy(), w=w, l2=np.array(l2), r=np.array(0.0))
    theta = support.flatten().numpy()
    best = head.minimiser(theta)
    radius = float(torch.from_numpy(best).norm())
    found = head.constants(theta, radius=radius)
    slope = head.upper_gradients(theta, best)[1]
    given = {
        "strong_convexity": found.strong_convexity,
        "smoothness": found.smoothness,
        "coupling": found.L12,
        "upper_coupling": found.lam12,
        "upper_smoothness": found.lam22,
        "hessian_lipschitz": found.rH,
        "coupling_lipschitz": found.rJ,
        "adjoint_norm": found.V,
        "upper_gradient": torch.from_numpy(slope).norm(),
    }
    return Constants(**{name: Proven(torch.as_tensor(value)) for name, value in given.items()})


def of_run(folder: Path, *, tasks: int = TASKS) -> tuple[list[Task], Result]:
    """Plans for tasks that a kept run never trained on, at its weights.

    Raises:
        MetalearnError: the run or its data can't be read, or it has no regularised softmax head.
    """
    run = Run(folder)
    config, result = run.config(), run.result()
    preset = config.preset()
    if not isinstance(preset.method, LinearHeads) or preset.method.l2 == 0:
        raise RunError(
            f"{folder} is a run of {config.method.name}, which has no regularised softmax head: "
            "give one of memory-reduced, memory-reduced-exact or itd-bio."
        )
    sampler = training_sampler(config, device=torch.device("cpu"))
    model = build_model(config, sampler.pool, device=torch.device("cpu"))
    model.load_state_dict(run.weights())
    first = config.optimisation.steps * preset.tasks_per_step
    episodes = sampler.sample(first, tasks)
    with torch.no_grad():
        support, query = (each.double() for each in parts(model.eval(), episodes))
    each = zip(support, episodes.support_labels, query, episodes.query_labels, strict=True)
    return [planned(*task, l2=preset.method.l2) for task in each], result


def table(record: dict[str, Any]) -> Rows:
    """One row a run, from the record alone: medians over its tasks."""
    rows = []
    for name, run in record["runs"].items():
        own = [Task(**task) for task in run["tasks"]]
        tried = [task.planned for task in own if task.planned is not None]
        needed = [task.needed for task in own if task.needed is not None]
        rows.append(
            [
                name,
                f"{median(task.condition for task in own):,.0f}",
                f"{median(task.published for task in own):.2g}",
                f"{median(task.K for task in own):,.0f}",
                f"{median(task.N for task in own):,.0f}",
                f"{median(tried):.1g}" if len(tried) == len(own) else "–",
                f"{median(needed):,.0f}" if len(needed) == len(own) else "–",
            ]
        )
    return Rows(
        title=(
            f"K and N for a hypergradient within {100 * record['share']:.0f} % of the exact one "
            f"(medians of {record['tasks']} tasks that the run never trained on)"
        ),
        columns=[
            "run",
            "L / mu",
            f"error at K = N = {PAPER_STEPS}",
            "planned K",
            "planned N",
            "error there",
            "K = N needed",
        ],
        rows=rows,
        notes=[
            "error: of the hypergradient in the support's features, over the exact one's length",
            f"K = N = {PAPER_STEPS}: steps of {PAPER_STEP_SIZE}, as published; the others: of 1/L",
            "planned: guaranteed by Theorem A with proven constants; needed: the least power of "
            "two that does",
            f"commit {record['commit']}, torch {record['versions']['torch']}, {record['device']}",
        ],
    )


def write(folders: Sequence[Path], out: Path, *, console: Console) -> None:
    """Plan for these runs; record and table."""
    runs = {}
    for folder in folders:
        tasks, result = of_run(folder)
        runs[f"{result.protocol.data}, {result.method}"] = {
            "commit": result.commit,
            "seed": result.seed,
            "tasks": [dataclasses.asdict(task) for task in tasks],
        }
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "share": SHARE,
        "tasks": TASKS,
        "runs": runs,
        **provenance.commit(),
        "versions": provenance.versions(),
        "device": provenance.device_name(torch.device("cpu")),
    }
    write_json(out / "plan.json", record)
    draw(out, console=console)


def draw(out: Path, *, console: Console) -> None:
    """Table from the record alone."""
    rows = table(json.loads((out / "plan.json").read_text(encoding="utf-8")))
    rows.show(console)
    write_atomically(out / "plan.md", rows.markdown().encode())
