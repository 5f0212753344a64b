"""A network as the lower level beside Betty and TorchOpt: accuracy, memory and time.

The experiment of benchmarks/digits.py: 800 digits, 30 % of them with a wrong label, an example's
weight moved by the hypergradient after every two epochs. Every library trains the same network on
the same batches and takes the same upper steps (network_ways.py). Time is process time of a whole
run over that of training without weights in the same round, a round for each seed, in turns; memory
is the most bytes of tensors that are alive at a time, over training's. Accuracies are compared
with the highest mean, seed by seed, with the interval of 95 %.

    python -m benchmarks.network_peers --seeds 10 --out benchmarks/results/network_peers.json

Runs in the environment for peers, see benchmarks/peers.py; needs scikit-learn there, too.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.digits import Phi, network
from benchmarks.network_ways import Task, Way, ways
from benchmarks.peer_entries import version
from benchmarks.provenance import provenance, write
from benchmarks.timing import keep_pages, ratios, seconds
from metalearn.memory import LiveBytes

OUT: Final = Path(__file__).parent / "results" / "network_peers.json"
Record = dict[str, Any]


def score(task: Task, theta: Tensor, phi: Phi) -> tuple[float, float]:
    """Accuracy on the test examples, and how well theta tells right labels from wrong."""
    x, y = task.data.test
    with torch.no_grad():
        right = network(phi, x).argmax(-1) == y
    weights = theta.detach().nan_to_num()  # weights that are no numbers tell nothing
    return float(right.float().mean()), float(roc_auc_score(~task.data.wrong.numpy(), weights))


def kept(way: Way, task: Task, ended: list[tuple[Tensor, Phi]]) -> None:
    """Run, and keep what came out."""
    ended.append(way.run(task))


def bytes_of(way: Way) -> int:
    """The most bytes alive in a run of two upper steps; more of them add nothing."""
    task = Task.drawn(0, 2)
    with LiveBytes() as live:
        way.run(task)
    peak: int = live.peak
    return peak


def measured(chosen: list[Way], seeds: int, steps: int) -> list[Record]:
    """A record for each way; the first is the one that time and memory are relative to."""
    found: list[list[tuple[float, float]]] = [[] for _ in chosen]
    times: list[list[float]] = [[] for _ in chosen]
    for way in chosen:
        way.run(Task.drawn(0, 1))  # what a first call does beside
    for seed in range(seeds):
        task = Task.drawn(seed, steps)
        for turn in range(len(chosen)):
            index = (turn + seed) % len(chosen)
            ended: list[tuple[Tensor, Phi]] = []
            times[index].append(seconds(partial(kept, chosen[index], task, ended)))
            found[index].append(score(task, *ended[0]))
    peaks = [bytes_of(way) for way in chosen]
    return [
        {
            "package": way.package,
            "how": way.how,
            "accuracies": [accuracy for accuracy, _ in scores],
            "aucs": [auc for _, auc in scores],
            "time": asdict(ratio),
            "bytes": peak,
            "memory": peak / peaks[0],
        }
        for way, scores, ratio, peak in zip(chosen, found, ratios(times), peaks, strict=True)
    ]


def apart(one: Record, other: Record) -> tuple[float, float]:
    """Mean difference of two ways' accuracies on the same seeds in points, with its interval."""
    pairs = zip(one["accuracies"], other["accuracies"], strict=True)
    points = [100 * (a - b) for a, b in pairs]
    count = len(points)
    quantile = float(stats.t.ppf(0.975, count - 1))
    return mean(points), quantile * stdev(points) / count**0.5


def rows(found: Record) -> Iterator[str]:
    """The rows of the table in the guide."""
    best = max(found["ways"], key=lambda one: mean(one["accuracies"]))
    for one in found["ways"]:
        time, how = one["time"], f"`{one['how']}`" if one["package"] else one["how"]
        below = ""
        if one["accuracies"] != best["accuracies"]:
            points, half = apart(one, best)
            below = f"{points:+.1f} ± {half:.1f}"
        yield (
            f"| {one['package']} | {how} | "
            f"{100 * mean(one['accuracies']):.1f} | {below} | {mean(one['aucs']):.3f} | "
            f"{time['median']:.2f} ({time['low']:.2f} to {time['high']:.2f}) | "
            f"{one['memory']:.2f} |"
        )


def main() -> None:
    """Run every way from every seed and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--steps", type=int, default=25, help="upper steps")
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    warnings.simplefilter("ignore")  # certificates, and torchopt's use of functorch
    origin = provenance()
    found: Record = {
        "provenance": origin,
        "peers": {name: version(name) or "absent" for name in ("betty", "torchopt")},
        "seeds": asked.seeds,
        "steps": asked.steps,
        "ways": measured(list(ways()), asked.seeds, asked.steps),
    }
    write(asked.out, found)
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
