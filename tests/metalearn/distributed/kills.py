"""`python -m tests.metalearn.distributed.kills`: SIGKILL of random ranks under torchrun.

Every run is that of `torchrun --max-restarts`, two ranks, until it completes; kills come at random
moments, and half of them inside the writing of a checkpoint. A run has passed if it completed, its
weights are those of the undisturbed run bit by bit, and no file that a kill left was unreadable.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from metalearn.files import is_temporary, write_json
from metalearn.runs import provenance
from metalearn.runs.folder import Run
from metalearn.training import checkpoint
from tests.metalearn.distributed.ranks import TINY

RANKS = 2
STEPS = 30
SETTINGS = [f"--steps={STEPS}", "--validate-every=10", *TINY]
_DEADLINE = 400.0  # seconds that one run may take, all its restarts included


@dataclass(frozen=True, slots=True)
class Killed:
    """One kill.

    Attributes:
        rank: which.
        inside_save: whether a checkpoint was half written at that moment.
        step: of the last checkpoint, which was readable; None before the first.
    """

    rank: int
    inside_save: bool
    step: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run.

    Attributes:
        kills: that it lived through.
        completed: whether it came to its result.
        same: whether its weights are those of the undisturbed run, bit by bit.
        resumed: how often it went on from a checkpoint.
        seconds: it took.
    """

    kills: tuple[Killed, ...]
    completed: bool
    same: bool
    resumed: int
    seconds: float


def torchrun(folder: Path, *, restarts: int) -> subprocess.Popen[bytes]:
    """A run of two ranks, in a process group of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={RANKS}", f"--max-restarts={restarts}"]
    command += ["--monitor-interval=0.05", "-m", "--", "metalearn", "train"]
    with (folder / "said.log").open("wb") as said:
        return subprocess.Popen(
            [*command, f"--run={folder / 'run'}", *SETTINGS],
            stdout=said,
            stderr=said,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a run."""
    for worker in workers(process.pid).values():
        _kill(worker)
    if process.poll() is None:
        process.kill()
    process.wait()


def undisturbed(folder: Path) -> bytes:
    """The weights that no kill leads to."""
    folder.mkdir(parents=True)
    process = torchrun(folder, restarts=0)
    try:
        assert process.wait(_DEADLINE) == 0, (folder / "said.log").read_text()
    finally:
        end(process)
    return (folder / "run" / "weights.safetensors").read_bytes()


def disturbed(folder: Path, kills: int, expected: bytes, draw: random.Random) -> Outcome:
    """A run with so many kills."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    run, done = Run(folder / "run"), []
    process = torchrun(folder, restarts=kills)
    try:
        for _ in range(kills):
            killed = _one_kill(process, run, draw, began + _DEADLINE)
            if killed is None:
                break
            done.append(killed)
        code = process.wait(max(1.0, began + _DEADLINE - time.monotonic()))
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        end(process)
    completed = code == 0 and run.finished
    events = (run.folder / "events.jsonl").read_text() if run.begun else ""
    return Outcome(
        kills=tuple(done),
        completed=completed,
        same=completed and (run.folder / "weights.safetensors").read_bytes() == expected,
        resumed=events.count('"resumed"'),
        seconds=time.monotonic() - began,
    )


def _one_kill(
    process: subprocess.Popen[bytes], run: Run, draw: random.Random, deadline: float
) -> Killed | None:
    """Kill a rank at a random moment after new checkpoints; None if the run ends before."""
    inside = draw.random() < 0.5
    rank = 0 if inside else draw.randrange(RANKS)
    before = _stamp(run.checkpoint)
    # some checkpoints of this process later, so that the job gets ahead
    for _ in range(draw.randint(1, 2)):
        while _stamp(run.checkpoint) == before:
            if process.poll() is not None or time.monotonic() > deadline:
                return None
            time.sleep(0.001)
        before = _stamp(run.checkpoint)
    victim = workers(process.pid).get(rank)
    if victim is None or run.finished:
        return None
    if inside:
        while not any(is_temporary(path) for path in run.folder.iterdir()):
            if process.poll() is not None or time.monotonic() > deadline:
                return None
    else:
        time.sleep(draw.uniform(0.0, 0.3))
    _kill(victim)
    torn = any(is_temporary(path) for path in run.folder.iterdir())
    _, progress = checkpoint.load(run.checkpoint)
    if (run.folder / "weights.safetensors").exists():
        safetensors.torch.load_file(run.folder / "weights.safetensors")
    return Killed(rank=rank, inside_save=torn, step=progress.step)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself


def workers(launcher: int) -> dict[int, int]:
    """The processes of the ranks that a launcher has started, from /proc."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
            variables = (place / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue  # it ended meanwhile
        own = [v for v in variables if v.startswith(b"RANK=")]
        if parent == launcher and own:
            found[int(own[0].removeprefix(b"RANK="))] = int(place.name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="kills in all")
    parser.add_argument("--per-run", type=int, default=5, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and clean up
    origin, draw = provenance.commit(), random.Random(options.seed)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as place:
        expected = undisturbed(Path(place) / "undisturbed")
        while (left := options.times - sum(len(o.kills) for o in outcomes)) > 0:
            folder = Path(place) / str(len(outcomes))
            outcome = disturbed(folder, min(left, options.per_run), expected, draw)
            sys.stdout.write(f"{outcome}\n")
            sys.stdout.flush()
            outcomes.append(outcome)
            if not outcome.same:
                sys.stdout.write((folder / "said.log").read_text())
            # after each run: what has been seen is kept if this process is ended
            write_json(options.out, _record(outcomes, options.seed) | origin)
    if not all(outcome.same for outcome in outcomes):
        sys.exit(1)


def _record(outcomes: list[Outcome], seed: int) -> dict[str, Any]:
    kills = [kill for outcome in outcomes for kill in outcome.kills]
    return {
        "kills": len(kills),
        "inside_save": sum(kill.inside_save for kill in kills),
        "runs": len(outcomes),
        "completed": sum(outcome.completed for outcome in outcomes),
        "same_weights": sum(outcome.same for outcome in outcomes),
        "ranks": RANKS,
        "settings": SETTINGS,
        "seed": seed,
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "versions": provenance.versions(),
    }


if __name__ == "__main__":
    main()
