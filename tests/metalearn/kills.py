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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch

from metalearn.files import write_json
from metalearn.runs import provenance
from metalearn.runs.folder import EVENTS, RESULT, Run
from metalearn.training.checkpoint import load
from tests.metalearn.forked import Forked

STEPS: Final = 200
SETTINGS: Final = (
    f"--steps={STEPS}",
    "--validate-every=20",
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
class Moment:
    """When to end a process: so long after a checkpoint of so many upper steps is there.

    Attributes:
        step: upper steps; 0: from the run's first word in the events on.
        seconds: after that.
    """

    step: int
    seconds: float


Started: TypeAlias = subprocess.Popen[bytes] | Forked
Start: TypeAlias = Callable[..., Started]


def _train(*arguments: str) -> Started:
    return subprocess.Popen(
        [sys.executable, "-m", "metalearn", "train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _words(run: Path) -> int:
    path = run / EVENTS
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _wait(process: Started, seconds: float) -> bool:
    """Whether it is still running after so long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is None


def _step(run: Path) -> int:
    """Upper steps of the last checkpoint; 0 if there is none."""
    checkpoint = Run(run).checkpoint
    return load(checkpoint)[1].step if checkpoint.exists() else 0


def kill(run: Path, arguments: list[str], moment: Moment, start: Start) -> int | None:
    """Train, and end it at this moment; the steps it then came to, None if it was done before."""
    before = _words(run)
    process = start(*arguments)
    try:
        while (_words(run) == before or _step(run) < moment.step) and _wait(process, 0.01):
            pass
        alive = _wait(process, moment.seconds)
    finally:
        process.kill()
        _, said = process.communicate()
    if not alive and process.returncode != 0:
        raise RuntimeError(f"training failed: {said.decode()}")
    return _step(run) if alive else None


def interrupted(
    run: Path, settings: list[str], moments: list[Moment], start: Start = _train
) -> list[int]:
    """Train, with a kill at each moment before the end; the steps it came to each time."""
    found = []
    arguments = [f"--run={run}", *settings]
    for moment in moments:
        ended = kill(run, arguments, moment, start)
        if ended is not None:
            found.append(ended)
        if (run / RESULT).exists():
            break
        arguments = [f"--resume={run}"]
    while not (run / RESULT).exists():
        process = start(f"--resume={run}")
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
    killed: list[int] = []
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
            # Some come before the run has gone on at all: the one before has come past their step.
            steps = sorted(draw.randrange(STEPS) for _ in range(left))
            moments = [Moment(step, draw.uniform(0, 0.2)) for step in steps]
            run = Path(folder) / f"run {runs}"
            killed += interrupted(run, list(SETTINGS), moments)
            differing += differences(run, whole)
            runs += 1
    sys.stdout.write(
        f"killed {len(killed)} times in {runs} runs, after upper steps {killed}: "
        f"{'bit-identical' if not differing else 'DIFFERENT: ' + ', '.join(differing)} "
        f"({time.monotonic() - began:.0f} s)\n"
    )
    record: dict[str, Any] = {
        "times": len(killed),
        "seed": arguments.seed,
        "settings": list(SETTINGS),
        "killed_after_steps": killed,
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
