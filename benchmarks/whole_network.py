"""Implicit MAML against unrolled MAML: bytes against K, and time in turns.

    python -m benchmarks.whole_network --out benchmarks/results/whole_network.json

Both adapt all weights by K steps of one size from the same start on the same images. They are two
methods, not two ways to one hypergradient: implicit MAML ties the weights to the start.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.costs import cost
from benchmarks.fewshot import Setting, Step, backbone_pass
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, keep_pages, ratios
from hypergrad import CG, GradientDescent, Implicit, Unrolled
from metalearn.methods import ImplicitMaml, Maml
from metalearn.methods.lower import Lower

STEP_SIZE = 0.01
ADJOINT_STEPS = 5
STRENGTH = 2.0


@dataclass(frozen=True, slots=True)
class Compared:
    """Figures that were found.

    Attributes:
        implicit: the implicit step, to be timed again.
        figures: for a result file.
    """

    implicit: Callable[[], None]
    figures: dict[str, object]


def implicit(steps: int) -> ImplicitMaml:
    """K steps, N = 5."""
    lower = Lower(
        by=GradientDescent(max_steps=steps, step_size=STEP_SIZE),
        adjoint=Implicit(CG(rtol=0.0, max_steps=ADJOINT_STEPS)),
    )
    return ImplicitMaml(lower=lower, strength=STRENGTH)


def compared(*, filters: int, side: int, steps: int, rounds: int) -> Compared:
    """Bytes at K/2 and K of both, one task at a time, and their times over one backbone pass."""
    setting = Setting(name="whole network", filters=filters, side=side, tasks=1)
    backbone, alone = backbone_pass(setting)
    alone()
    limit = cost(alone, [*backbone.parameters(), setting.episodes().images])
    figures: dict[str, object] = {"setting": dataclasses.asdict(setting), "steps": steps}
    runs: list[Callable[[], None]] = [alone]
    peaks = {}
    for name, build in (("implicit", implicit), ("unrolled", unrolled)):
        half, whole = (Step(build(count), setting) for count in (steps // 2, steps))
        spent = []
        for step in (half, whole):
            step()
            spent.append(cost(step, [*step.parameters(), step.episodes.images]))
        slope = (spent[1].peak_bytes - spent[0].peak_bytes) / (steps - steps // 2)
        peaks[name] = spent[1].peak_bytes
        figures |= {
            f"{name}_bytes_that_a_step_adds": slope,
            f"{name}_peak_over_a_pass": peaks[name] / limit.peak_bytes,
            f"{name}_counted": dataclasses.asdict(spent[1]),
            f"{name}_products": whole.products(),
            f"{name}_residual": whole.residual(),
            f"{name}_distance_from_float64": whole.rounding(),
        }
        runs.append(whole)
    figures["peak_ratio"] = peaks["implicit"] / peaks["unrolled"]
    _, ours, theirs = ratios(interleaved(runs, rounds=rounds))
    figures |= {
        "implicit_time": dataclasses.asdict(ours),
        "unrolled_time": dataclasses.asdict(theirs),
    }
    return Compared(runs[1], figures)


def unrolled(steps: int) -> Maml:
    """K steps, through which is differentiated."""
    return Maml(
        lower=Lower(by=GradientDescent(max_steps=steps, step_size=STEP_SIZE), adjoint=Unrolled())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    origin = provenance()
    found = compared(
        filters=asked.filters, side=asked.side, steps=asked.steps, rounds=asked.rounds
    ).figures
    write(asked.out, {"provenance": origin} | found)
    print(
        f"K = {asked.steps}: bytes that a lower step adds: "
        f"{found['implicit_bytes_that_a_step_adds']:.0f} implicit, "
        f"{found['unrolled_bytes_that_a_step_adds']:.0f} unrolled; "
        f"implicit MAML's peak is {found['peak_ratio']:.1%} of unrolled MAML's"
    )


if __name__ == "__main__":
    main()
