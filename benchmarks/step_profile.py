"""Profile of one memory-reduced step.

    python -m benchmarks.step_profile --out benchmarks/results/profile.json

Clocks stand around the backbone's forward, the lower solve and the adjoint solve; the backbone's
backward is from the moment when the features' gradient is there. What is left is the loss of the
queries, the checks, the linearisation and the cross product.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fewshot import SETTINGS, Step, backbone_pass, method
from benchmarks.provenance import provenance, write
from benchmarks.timing import keep_pages, seconds
from hypergrad import CG, GradientDescent

PARTS = ("backbone forward", "lower solve", "adjoint solve", "backbone backward")
REST = "the rest"


@contextmanager
def clock(owner: type, name: str, spent: dict[str, float], part: str) -> Iterator[None]:
    """Add the time of each call of a method to a part."""
    honest: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return honest(*arguments, **named)
        finally:
            spent[part] += time.process_time() - began

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, honest)


def profile(step: Step) -> dict[str, float]:
    """Seconds of each part of one step."""
    spent: dict[str, float] = defaultdict(float)
    arrived = 0.0

    def watch(module: torch.nn.Module, inputs: object, features: Tensor) -> None:
        def arrive(gradient: Tensor) -> None:
            nonlocal arrived
            arrived = time.process_time()

        if features.requires_grad:
            features.register_hook(arrive)

    with ExitStack() as stack:
        backbone = step.model.backbone
        stack.enter_context(clock(type(backbone), "forward", spent, PARTS[0]))
        stack.enter_context(clock(GradientDescent, "minimise", spent, PARTS[1]))
        stack.enter_context(clock(CG, "solve", spent, PARTS[2]))
        stack.callback(backbone.register_forward_hook(watch).remove)
        began = time.process_time()
        step()
        ended = time.process_time()
    spent[PARTS[3]] = ended - arrived
    spent[REST] = ended - began - sum(spent[part] for part in PARTS)
    return dict(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--setting", choices=SETTINGS, default="cifar-conv4-64")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="K and N")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    origin = provenance()
    setting = dataclasses.replace(SETTINGS[asked.setting], tasks=asked.tasks)
    step = Step(method("memory-reduced", asked.steps), setting)
    _, alone = backbone_pass(setting)
    step()
    alone()
    runs, limits = [], []
    for _ in range(asked.rounds):
        limits.append(seconds(alone))
        runs.append(profile(step))
    shares = {}
    for part in (*PARTS, REST):
        ratios = [run[part] / limit for run, limit in zip(runs, limits, strict=True)]
        shares[part] = statistics.median(ratios)
        print(f"{part:18} {shares[part]:6.3f} of the backbone's own forward and backward")
    write(
        asked.out,
        {
            "provenance": origin,
            "setting": dataclasses.asdict(setting),
            "steps": asked.steps,
            "rounds": asked.rounds,
            "over_a_pass": shares,
        },
    )


if __name__ == "__main__":
    main()
