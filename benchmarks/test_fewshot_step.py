"""Cost of an upper step, method by method and K by K.

Each entry tells in `extra_info` the time and bytes over the backbone's own forward and backward,
the passes, the products, the residual, and how far float32 is from float64.
"""

from __future__ import annotations

import dataclasses

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.costs import cost
from benchmarks.fewshot import METHODS, SETTINGS, STEPS, Step, backbone_pass, method, takes_steps
from benchmarks.provenance import provenance
from benchmarks.timing import interleaved, ratios

# The unrolled networks keep a graph for each lower step: one task, and no more steps than fit.
WHOLE_NETWORK = ("maml", "fomaml", "imaml", "reptile")
LONGEST = {"maml": 20, "imaml": 20}
QUICK = {("cifar-conv4-64", name, 5) for name in ("memory-reduced", "itd-bio", "r2d2", "fomaml")}


def cases() -> list[object]:
    found: list[object] = []
    for setting in SETTINGS:
        for name in METHODS:
            for steps in STEPS if takes_steps(name) else (5,):
                if steps > LONGEST.get(name, max(STEPS)):
                    continue
                quick = (setting, name, steps) in QUICK
                marks = [] if quick else [pytest.mark.full]
                found.append(pytest.param(setting, name, steps, marks=marks))
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("where", "name", "steps"), cases())
def test_step(benchmark: BenchmarkFixture, where: str, name: str, steps: int) -> None:
    setting = dataclasses.replace(SETTINGS[where], tasks=1 if name in WHOLE_NETWORK else 2)
    backbone, alone = backbone_pass(setting)
    step = Step(method(name, steps), setting)
    alone()
    rounding = step.rounding()
    limit = cost(alone, [*backbone.parameters(), setting.episodes().images])
    spent = cost(step, [*step.parameters(), step.episodes.images])
    _, ratio = ratios(interleaved([alone, step], rounds=3))
    benchmark.pedantic(step, rounds=3)  # type: ignore[no-untyped-call]
    benchmark.extra_info |= provenance() | {
        "setting": dataclasses.asdict(setting),
        "time_ratio": dataclasses.asdict(ratio),
        "bytes_ratio": spent.peak_bytes / limit.peak_bytes,
        "counted": dataclasses.asdict(spent),
        "passes": (spent.forward + spent.backward) / (limit.forward + limit.backward),
        "products": step.products(),
        "worst_residual": step.residual(),
        "distance_from_float64": rounding,
    }
    assert rounding < 1  # NaN is not
