"""Kills a training run at random moments and resumes it: nothing may come out otherwise.

`python -m tests.metalearn.kills --times 20` trains once without interruption, then once more, ended
by SIGKILL after as many random times and resumed each time, and compares metrics, weights and
result bit by bit (CPU). `--out FILE` writes down what it found.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from metalearn import provenance
from metalearn.checkpoint import load
from metalearn.files import write_json
from metalearn.run import EVENTS, RESULT, Run

SETTINGS: Final = (
    "--steps=60",
    "--validate-every=10",
    "--checkpoint-every=1",
    "--validation-episodes=20",
    "--test-episodes=40",
    "--filters=8",
    "--tasks-per-step=2",
    "--train.way=5",
    "--method=memory-reduced",
    "--hypergradient-error",
    "--threads=1",
    "--device=cpu",
    "--tracker=none",
)
# Of a result, what the settings decide; the rest tells when and where it was computed.
DECIDED: Final = ("accuracy", "per_episode", "certificate", "calibration", "validation")


def differences(run: Path, whole: Path) -> list[str]:
    """What of two runs is not the same, bit by bit; empty if all is."""
    metrics, expected_metrics = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in Run(each).metrics()]
        for each in (run, whole)
    )
    found = [] if metrics == expected_metrics else ["metrics"]
    weights, expected = Run(run).weights(), Run(whole).weights()
    same = weights.keys() == expected.keys() and all(
        torch.equal(weights[name], expected[name]) for name in expected
    )
    found += [] if same else ["weights"]
    results = Run(run).result(), Run(whole).result()
    return found + [
        name
        for name in (*DECIDED, "best_step")
        if getattr(results[0], name) != getattr(results[1], name)
    ]


@dataclass(frozen=True, slots=True)
class Killed:
    """One process that was ended: after how many seconds, and what the folder then held.

    Attributes:
        seconds: from its first word in the events; before it, nothing can be lost.
        step: upper steps of the checkpoint it left; None: it left none.
    """

    seconds: float
    step: int | None


def _train(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "metalearn", "train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _words(run: Path) -> int:
    path = run / EVENTS
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it is still running after so long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is None


def kill(run: Path, arguments: list[str], seconds: float) -> Killed | None:
    """Train, and end it so long after it began or went on; None if it was done before that."""
    before = _words(run)
    process = _train(*arguments)
    try:
        while _words(run) == before and _wait(process, 0.01):
            pass
        alive = _wait(process, seconds)
    finally:
        process.kill()
        _, said = process.communicate()
    if not alive:
        if process.returncode != 0:
            raise RuntimeError(f"training failed: {said.decode()}")
        return None
    checkpoint = Run(run).checkpoint
    return Killed(seconds, load(checkpoint)[1].step if checkpoint.exists() else None)


def interrupted(run: Path, settings: list[str], moments: list[float]) -> list[Killed]:
    """Train with one kill at each of these times; fewer if the run ends before."""
    found = []
    arguments = [f"--run={run}", *settings]
    for seconds in moments:
        ended = kill(run, arguments, seconds)
        if ended is not None:
            found.append(ended)
        if (run / RESULT).exists():
            break
        arguments = [f"--resume={run}"]
    while not (run / RESULT).exists():
        process = _train(f"--resume={run}")
        _, said = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"training failed: {said.decode()}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    origin = provenance.commit()
    killed: list[Killed] = []
    differing: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        began = time.monotonic()
        process = _train(f"--run={whole}", *SETTINGS)
        _, said = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"training failed: {said.decode()}")
        result = Run(whole).result()
        draw = random.Random(arguments.seed)
        runs = 0
        while len(killed) < arguments.times:  # a run that ends before has a follower
            left = arguments.times - len(killed)
            moments = [draw.uniform(0, 2 * result.seconds / arguments.times) for _ in range(left)]
            run = Path(folder) / f"run {runs}"
            killed += interrupted(run, list(SETTINGS), moments)
            differing += differences(run, whole)
            runs += 1
    steps = [ended.step for ended in killed]
    sys.stdout.write(
        f"killed {len(killed)} times in {runs} runs, after upper steps {steps}: "
        f"{'bit-identical' if not differing else 'DIFFERENT: ' + ', '.join(differing)} "
        f"({time.monotonic() - began:.0f} s)\n"
    )
    record: dict[str, Any] = {
        "times": len(killed),
        "seed": arguments.seed,
        "settings": list(SETTINGS),
        "kills": [{"seconds": ended.seconds, "step": ended.step} for ended in killed],
        "differing": differing,
        "runs": runs,
        "accuracy": result.accuracy,
        **origin,
        "versions": provenance.versions(),
        "device": provenance.device_name(torch.device("cpu")),
    }
    if arguments.out is not None:
        write_json(arguments.out, record)
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
