"""What torch.compile gains: of the heads' two loops, and of a backbone.

    python -m benchmarks.compiled --out benchmarks/results/compiled.json

Steps of the memory-reduced method with and without compiled loops, in turns in one process, over
the backbone's own forward and backward; first, that both are the same hypergradient. With
`--backbone` its pass is compiled too, which takes minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.fewshot import SETTINGS, Setting, Step, backbone_pass, method
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, keep_pages, ratios
from metalearn.methods.overrides import adjusted

AGREEMENT = 1e-3
"""Of two orders of summation of a backbone's gradient, in float32."""

SIZES = ((1, 1, 1), (4, 5, 5), (32, 5, 5))
"""Tasks, shots and queries of a step: the smaller, the more of it are the heads."""


def heads(setting: Setting, steps: int, rounds: int, device: str) -> dict[str, object]:
    """A step with compiled loops against one without."""
    plain = method("memory-reduced", steps)
    eager = Step(plain, setting, device=device)
    whole = Step(adjusted(plain, compiled=True), setting, device=device)
    _, alone = backbone_pass(setting, device=device)
    took = _first(whole)
    # Both round, and the systems of an untrained backbone magnify it: they may be as far from each
    # other as one is from float64.
    rounding = eager.rounding()
    apart = _apart(whole.gradient(), eager.gradient(), allowed=rounding)
    times = interleaved([alone, eager, whole], rounds=rounds, cuda=device == "cuda")
    over = ratios(times)
    return {
        "compiling_s": took - _first(whole),
        "apart": apart,
        "rounding": rounding,
        "eager": dataclasses.asdict(over[1]),
        "compiled": dataclasses.asdict(over[2]),
    }


def backbone(setting: Setting, rounds: int, device: str) -> dict[str, object]:
    """The backbone's pass, compiled, against itself."""
    module, alone = backbone_pass(setting, device=device)
    other, _ = backbone_pass(setting, device=device)
    images = setting.episodes(device=device).images
    support = setting.episodes().support_labels.shape[1]
    forward: Callable[[Tensor, int], Tensor] = torch.compile(other, fullgraph=True, dynamic=False)

    def run() -> None:
        other.zero_grad(set_to_none=True)
        features = forward(images, support)
        features.backward(torch.ones_like(features))

    took = _first(run)
    alone()
    apart = _apart(_gradient(other), _gradient(module), allowed=AGREEMENT)
    times = interleaved([alone, run], rounds=rounds, cuda=device == "cuda")
    return {
        "compiling_s": took - _first(run),
        "apart": apart,
        "compiled": dataclasses.asdict(ratios(times)[1]),
    }


def _first(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()  # its compiling, on the host
    return time.perf_counter() - began


def _gradient(module: torch.nn.Module) -> Tensor:
    found = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.cat([part.flatten() for part in found])


def _apart(left: Tensor, right: Tensor, *, allowed: float) -> float:
    distance = float((left - right).norm() / right.norm())
    if not distance <= allowed:
        raise SystemExit(f"compiled, the gradient is {distance:.1e} away: nothing is timed.")
    return distance


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--setting", choices=SETTINGS, default="cifar-conv4-64")
    parser.add_argument("--steps", type=int, default=20, help="K and N")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--backbone", action="store_true", help="compile the backbone, too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    origin = provenance(asked.device)
    usual = SETTINGS[asked.setting]
    settings = [
        dataclasses.replace(usual, tasks=tasks, shot=shot, query=query)
        for tasks, shot, query in SIZES
    ]
    rows = []
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty  # or compiling is that of an earlier run
        for setting in settings:
            rows.append(
                dataclasses.asdict(setting)
                | heads(setting, asked.steps, asked.rounds, asked.device)
            )
            print(rows[-1], flush=True)
        alone = None
        if asked.backbone:
            setting = settings[1]
            own = backbone(setting, asked.rounds, asked.device)
            alone = dataclasses.asdict(setting) | own
            print(alone, flush=True)
    kept = {"provenance": origin, "K and N": asked.steps, "rounds": asked.rounds}
    write(asked.out, kept | {"heads": rows, "backbone": alone})


if __name__ == "__main__":
    main()
