"""What the ranks of the tests of equality do: train, and write down what came out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

from metalearn.config.train import TrainConfig
from metalearn.distributed import World, joined
from metalearn.methods.lower import exact
from metalearn.training import checkpoint
from metalearn.training.checkpoint import RunKey
from metalearn.training.state import Training

# What float32's tolerance of 3e-5 is in float64, their roundings being 6e-8 and 1.1e-16. A solve to
# a looser one amplifies rounding, and ends anywhere within its tolerance.
TIGHT = 3e-5 * 1.1e-16 / 6e-8
KEY = RunKey(config="c", configured="m", backbone="b", data="d")


def train(configs: dict[str, TrainConfig], steps: int, start: Path | None, out: Path) -> None:
    """Train each of the runs for some steps, from their states in the folder `start` if given."""
    with joined(torch.device("cpu")) as (world, device):
        for name, config in configs.items():
            torch.manual_seed(config.run.seed)
            training = Training(config, device, world)
            if name == "solved":
                training.method = replace(training.method, lower=exact(rtol=TIGHT))  # type: ignore[type-var]
            if start is not None:
                training.restore(*checkpoint.load(start / name))
            for _ in range(steps):
                training.advance()
            found = training.validate()
            # what each rank holds is compared, not only what the first one would write
            path = out / str(world.rank) / name
            tensors, progress = training.state(key=KEY, origin={}, metrics=0, seconds=0.0)
            tensors["validation"] = found.episodes
            checkpoint.save(path, tensors, progress)


def train_with_a_wrong_share(configs: dict[str, TrainConfig], steps: int, out: Path) -> None:
    """A planted bug: what does not divide evenly is left out."""

    def share(world: World, count: int) -> range:
        each = count // world.size
        return range(world.rank * each, (world.rank + 1) * each)

    mock.patch.object(World, "share", share).start()
    train(configs, steps, None, out)


def train_with_equal_weights(configs: dict[str, TrainConfig], steps: int, out: Path) -> None:
    """A planted bug: the hypergradient is the mean of the ranks' means, not of the tasks."""
    honest = World.total

    def total(world: World, values: torch.Tensor, what: str) -> torch.Tensor:
        if what.startswith("the hypergradients"):
            tasks = next(iter(configs.values())).optimisation.tasks_per_step
            assert tasks is not None
            values = values * tasks / len(world.share(tasks)) / world.size
        return honest(world, values, what)

    mock.patch.object(World, "total", total).start()
    train(configs, steps, None, out)
