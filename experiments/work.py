"""Work of a run: floating-point operations of the backbone in training, whatever device does them.

No GPU was at hand for the results. What one would take is bounded from below by a run's work over
the rate at which the GPU does convolutions of this size.
"""

from __future__ import annotations

import re

import torch
from torch.utils.flop_counter import FlopCounterMode

from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.data.pool import Pool
from metalearn.data.published import published
from metalearn.methods.method import Method
from metalearn.methods.networks import ImplicitMaml, Maml, Reptile
from metalearn.methods.overrides import passes
from metalearn.training.build import build_model

FORWARD_AND_BACK = 3
"""A backward makes two products of the size of each that its forward makes."""


def work(config: TrainConfig, data: str) -> float | None:
    """Floating-point operations of a run's upper steps; a multiplication and an addition are two.

    Args:
        config: settings of the run; its backbone is a built-in one.
        data: name of the data in the run's protocol, which says so where the images have another
            size than the data set's.

    Returns:
        Images that pass the backbone forward and back, times the operations of one; None if the
        method's passes are not a fixed number. What more a backward costs that is differentiated
        itself is left out, so that no run takes less.
    """
    preset = config.preset()
    images = seen(preset.method, config.train)
    if images is None:
        return None
    tasks = preset.tasks_per_step * config.optimisation.steps
    return float(FORWARD_AND_BACK * images * tasks * forward(config, data))


def seen(method: Method, shape: EpisodeShape) -> int | None:
    """Images of one task that pass the backbone in an upper step, each time that they do.

    A network that adapts is passed by the support in each of its steps, and by the queries once
    where there is an upper loss.
    """
    support, query = shape.way * shape.shot, shape.way * shape.query
    if not isinstance(method, Maml | ImplicitMaml | Reptile):
        return support + query
    taken = passes(method)
    if taken is None:
        return None
    return taken * support if isinstance(method, Reptile) else (taken - 1) * support + query


def forward(config: TrainConfig, data: str) -> int:
    """Floating-point operations of the backbone's forward pass over one image."""
    facts = published(config.data.name)
    named = re.search(r" at (\d+) pixels", data)
    side = facts.side if named is None else int(named[1])
    images = torch.zeros(1, 1, facts.channels, side, side, dtype=torch.uint8)
    pool = Pool(images=images, split="train", names=("blank",))
    model = build_model(config, pool, device=torch.device("cpu"))
    blank = torch.zeros(1, facts.channels, side, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.backbone(blank[None], 1)
    return int(counter.get_total_flops())
