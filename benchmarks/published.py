"""The paper's comparison again, honestly: scripts as published, best effort, and this library.

    python -m benchmarks.published --out benchmarks/results/published.json

Each contender first shows that it computes the hypergradient of its counterpart here, to 1e-6
relative in float64; how far rounding parts them in float32 is written down. Then bytes and
multiplications are counted, and times taken in turns in one process. The unit of time is one
forward and one backward of the backbone on the same images: what no method that learns the backbone
can do without. Bytes are peak live bytes of tensors, weights and images included, over those of
that pass.

"As published" is a script's way of computing (benchmarks/published_methods.py says which);
Heads descend by steps of 0.005 in place of the scripts' 0.05 and 0.1, networks by 0.001. On noise
and an untrained backbone larger ones lie above 2/L: descent amplifies rounding, and two float32
programs of one hypergradient differ by percents (in float64 by 1e-8). What is measured does not
depend on it.

"Best effort" is the same method as `metalearn` runs it: features once where the method allows it,
all tasks together, or in chunks of one task, which is what costs the least memory; streamed chunks
keep no activations of the backbone. Scripts run channels-first, which is PyTorch's default, and
`metalearn` in the layout that it picks (`metalearn.training.build`).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import published_methods as scripts
from benchmarks.costs import Cost, cost
from benchmarks.fewshot import SETTINGS, Setting, Step, backbone_pass, method
from benchmarks.provenance import provenance, write
from benchmarks.published_methods import Published
from benchmarks.timing import Ratio, interleaved, keep_pages, ratios, spread
from metalearn.methods import Method, Model
from metalearn.methods.heads import LinearHeads
from metalearn.methods.overrides import adjusted, numbers
from metalearn.training.build import lay_out

HEAD_STEP, NETWORK_STEP = 0.005, 0.001
AGREEMENT = 1e-6  # of the hypergradient's norm, in float64; N steps of CG magnify its rounding
SCRIPTS: dict[str, tuple[str, Callable[[Published, Model, scripts.Task, float], None]]] = {
    "Algorithm 1, as published": ("memory-reduced", scripts.algorithm_1),
    "ITD-BiO, as published": ("itd-bio", scripts.itd_bio),
    "ANIL, as published": ("anil", scripts.anil),
    "ANIL, as learn2learn has it": ("anil", scripts.anil_once),
    "MAML, as published": ("maml", scripts.maml),
}
NAMES = {
    "memory-reduced": "Algorithm 1, this library",
    "itd-bio": "ITD-BiO, best effort",
    "anil": "ANIL, best effort",
    "maml": "MAML, best effort",
}
PASS = "backbone's forward and backward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to take an upper step.

    Attributes:
        name: in the table.
        steps: K; None for the backbone alone.
        model: whose gradients `run` leaves in `grad`.
        images: images of the step.
        run: the step.
        same_as: the contender whose hypergradient it must compute.
    """

    name: str
    steps: int | None
    model: nn.Module
    images: Tensor
    run: Callable[[], None]
    same_as: str | None = None

    def gradient(self) -> Tensor:
        """The hypergradient, flat."""
        self.run()
        parts = [p.grad for p in self.model.parameters()]
        assert all(part is not None for part in parts)
        return torch.cat([part.flatten() for part in parts if part is not None])


def subject(name: str, steps: int) -> Method:
    """The method here, with steps that descend."""
    found = method(name, steps)
    size = HEAD_STEP if isinstance(found, LinearHeads) else NETWORK_STEP
    return adjusted(found, step_size=size)


def contenders(
    setting: Setting, steps: int, maml_steps: int, device: str, *, double: bool = False
) -> list[Contender]:
    """The backbone alone first, then each method here, in chunks of one task, and as published.

    Args:
        setting: backbone and tasks.
        steps: K, and N.
        maml_steps: K of MAML.
        device: to run on.
        double: methods in float64.
    """
    model, run = backbone_pass(setting, device=device)
    images = setting.episodes(device=device).images
    found = [Contender(name=PASS, steps=None, model=model, images=images, run=run)]
    if device == "cpu":  # where it makes a difference; no script changes PyTorch's default
        model, run = backbone_pass(setting, device=device, channels_last=False)
        name = f"{PASS}, channels-first"
        found.append(Contender(name=name, steps=None, model=model, images=images, run=run))
    for name, label in NAMES.items():
        count = maml_steps if name == "maml" else steps
        ways = [(None, False, ""), (1, False, ", one task at a time")]
        if name == "memory-reduced":
            ways.append((1, True, ", streamed"))
        for chunk, streamed, how in ways:
            step = Step(
                subject(name, count),
                setting,
                device=device,
                tasks_per_chunk=chunk,
                streamed=streamed,
            )
            if double:
                step.widen()
            found.append(
                Contender(
                    name=label + how,
                    steps=count,
                    model=step.model,
                    images=step.episodes.images,
                    run=step,
                    same_as=None if chunk is None else label,
                )
            )
    for label, (name, task) in SCRIPTS.items():
        count = maml_steps if name == "maml" else steps
        step = Step(subject(name, count), setting, device=device)
        lay_out(step.model, channels_last=False)
        if double:
            step.widen()
        own = numbers(step.method)
        assert own.step_size is not None
        script = Published(
            task=task,
            steps=count,
            step_size=own.step_size,
            l2=step.method.l2 if isinstance(step.method, LinearHeads) else 0.0,
            adjoint_steps=own.N or 0,
        )
        found.append(
            Contender(
                name=label,
                steps=count,
                model=step.model,
                images=step.episodes.images,
                run=functools.partial(script, step.model, step.episodes),
                same_as=NAMES[name],
            )
        )
    return found


def disagreements(every: list[Contender], *, most: float) -> dict[str, float]:
    """Relative distance of each hypergradient from its counterpart's.

    Raises:
        RuntimeError: a method has another hypergradient, so that its time means nothing.
    """
    known: dict[str, Tensor] = {}
    found: dict[str, float] = {}
    for one in every:
        if one.steps is None:
            continue
        own = one.gradient()
        if one.same_as is None:
            known[one.name] = own
            continue
        other = known[one.same_as]
        found[one.name] = float((own - other).norm() / other.norm())
        if not found[one.name] <= most:
            raise RuntimeError(
                f"{one.name} and {one.same_as} differ by {found[one.name]:.1e} of the "
                f"hypergradient's norm: at most {most:g} was expected, so they are not timed."
            )
    return found


def measure(
    setting: Setting, *, steps: int, maml_steps: int, rounds: int, device: str
) -> dict[str, object]:
    """Errors, then counts, then times in turns."""
    wide = contenders(setting, steps, maml_steps, device, double=True)
    errors = disagreements(wide, most=AGREEMENT)
    del wide
    every = contenders(setting, steps, maml_steps, device)
    rounding = disagreements(every, most=math.inf)
    costs = [cost(one.run, [*one.model.parameters(), one.images]) for one in every]
    times = interleaved([one.run for one in every], rounds=rounds, cuda=device == "cuda")
    return {
        **dataclasses.asdict(setting),
        "steps": steps,
        "maml_steps": maml_steps,
        "rounds": rounds,
        "rows": [
            row(one, spent, ratio, costs[0], errors.get(one.name))
            | {"disagreement_float32": rounding.get(one.name)}
            for one, spent, ratio in zip(every, costs, ratios(times), strict=True)
        ],
    }


def row(
    one: Contender, spent: Cost, ratio: Ratio, limit: Cost, error: float | None
) -> dict[str, object]:
    """One line of the table."""
    return {
        "name": one.name,
        "steps": one.steps,
        "time": dataclasses.asdict(ratio),
        "bytes": spent.peak_bytes / limit.peak_bytes,
        "convolution_work": (spent.forward + spent.backward) / (limit.forward + limit.backward),
        "disagreement": error,
        "counted": dataclasses.asdict(spent),
    }


def table(found: dict[str, object]) -> Table:
    """For a terminal."""
    made = Table(
        title=f"{found['name']}: {found['tasks']} tasks, 5-way {found['shot']}-shot, "
        f"{found['query']} queries a class"
    )
    columns = ("", "K", "time", "(quartiles)", "peak bytes", "convolutions", "disagreement")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left")
    rows = found["rows"]
    assert isinstance(rows, list)
    for one in rows:
        error = one["disagreement"]
        made.add_row(
            one["name"],
            "" if one["steps"] is None else str(one["steps"]),
            *spread(one["time"], digits=2),
            f"{one['bytes']:.2f}",
            f"{one['convolution_work']:.1f}",
            "" if error is None else f"{error:.0e}",
        )
    return made


def main() -> None:
    conv4 = [name for name, setting in SETTINGS.items() if setting.filters is not None]
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--settings", nargs="+", choices=conv4, default=conv4)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20, help="K, and N of Algorithm 1")
    parser.add_argument("--maml-steps", type=int, default=5, help="K of MAML")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    kept = keep_pages()
    found: dict[str, object] = {
        "provenance": provenance(asked.device) | {"allocator_keeps_pages": kept},
        "settings": [],
    }
    for name in asked.settings:
        setting = dataclasses.replace(SETTINGS[name], tasks=asked.tasks)
        one = measure(
            setting,
            steps=asked.steps,
            maml_steps=asked.maml_steps,
            rounds=asked.rounds,
            device=asked.device,
        )
        assert isinstance(found["settings"], list)
        found["settings"].append(one)
        write(asked.out, found)
        Console(width=110).print(table(one))


if __name__ == "__main__":
    main()
