"""`metalearn measure`: peak memory of one upper step against K, for several methods."""

from __future__ import annotations

import dataclasses
import gc
from typing import Final

import torch
from rich.console import Console

from metalearn.backbones.source import imported
from metalearn.config.commands import MeasureConfig
from metalearn.config.train import TrainConfig
from metalearn.errors import RunError
from metalearn.files import write_json
from metalearn.methods.overrides import numbers
from metalearn.methods.presets import shared_normalisation
from metalearn.runs import provenance
from metalearn.runs.records import Measured
from metalearn.training.budget import predicted_bytes
from metalearn.training.state import Training

LIVE_BYTES: Final = "live tensor bytes"
ALLOCATOR: Final = "CUDA allocator's peak"


def measure(config: MeasureConfig, *, console: Console) -> Measured:
    """Measure, and write the file.

    Raises:
        MetalearnError: a setting or the data can't be used.
    """
    usual = config.settings
    if usual.backbone.normalisation is None:
        usual = usual.replace(normalisation=shared_normalisation(config.methods))
    device = usual.place()
    tasks = usual.optimisation.tasks_per_step or 4
    peaks: dict[str, dict[str, int]] = {}
    for method in config.methods:
        peaks[method] = {}
        own = usual.replace(method=method, tasks_per_step=tasks)
        # a method that solves until it is done is the same for every K
        once = _peak(own) if numbers(own.preset().method).K is None else None
        for steps in config.k:
            peak = once or _peak(own.replace(lower_steps=steps))
            peaks[method][str(steps)] = peak
            console.print(f"{method}, K = {steps}: {peak / 2**20:.1f} MiB", highlight=False)
    found = Measured(
        measure=ALLOCATOR if device.type == "cuda" else LIVE_BYTES,
        protocol=(
            f"{usual.data.name}, {usual.train}, {tasks} tasks, {usual.backbone}, "
            f"normalisation {usual.backbone.normalisation}, {device.type}"
        ),
        peaks=peaks,
        **provenance.commit(),
        versions=provenance.versions(),
        device=provenance.device_name(device),
        seed=usual.run.seed,
    )
    try:
        write_json(config.out, dataclasses.asdict(found))
    except OSError as error:
        raise RunError(f"{config.out} can't be written ({error}): give another --out.") from error
    return found


def _peak(config: TrainConfig) -> int:
    """Peak of one upper step: by the allocator on CUDA, else by the tensors that are alive."""
    source = imported(config.backbone.name)
    training = Training(config, config.place(), source=source)
    if training.device.type != "cuda":
        return predicted_bytes(training)
    gc.collect()  # what the method before has left
    torch.cuda.reset_peak_memory_stats(training.device)
    training.advance()
    peak: int = torch.cuda.max_memory_allocated(training.device)
    return peak
