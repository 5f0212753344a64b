"""Peak memory of one upper step against K, measured for several methods and written down."""

from __future__ import annotations

import dataclasses
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from metalearn.config.schema import parse, read
from metalearn.config.train import MethodName, TrainConfig
from metalearn.errors import RunError
from metalearn.files import write_json
from metalearn.methods.overrides import numbers
from metalearn.runs import provenance
from metalearn.training.budget import predicted_bytes
from metalearn.training.state import Training

LIVE_BYTES: Final = "live tensor bytes"
ALLOCATOR: Final = "CUDA allocator's peak"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """Measure the peak memory of one upper step against K, for `metalearn figure memory`.

    Attributes:
        out: the JSON file to write.
        methods: presets to measure.
        steps: values of K; for methods that solve until they are done they make no difference.
        settings: of the runs; method and lower_steps are set by the above.
    """

    out: Path = Path("memory.json")
    methods: tuple[MethodName, ...] = (
        "memory-reduced",
        "memory-reduced-exact",
        "itd-bio",
        "anil",
        "maml",
    )
    steps: tuple[int, ...] = (1, 5, 10, 20, 50, 100)
    settings: TrainConfig = dataclasses.field(default_factory=TrainConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What `measure` found.

    Attributes:
        measure: what was counted.
        protocol: the episodes, backbone and tasks of a step, in one line.
        peaks: for each method bytes for each K.
        commit: of the code.
        dirty: whether the code differed from it.
        versions: of Python and packages.
        device: it ran on.
        seed: of weights and episodes.
    """

    measure: str
    protocol: str
    peaks: dict[str, dict[str, int]]
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    seed: int


def measure(config: MeasureConfig, *, console: Console) -> Measured:
    """Measure, and write the file.

    Raises:
        MetalearnError: a setting or the data can't be used.
    """
    usual = config.settings
    device = usual.place()
    tasks = usual.tasks_per_step or 4
    peaks: dict[str, dict[str, int]] = {}
    for method in config.methods:
        peaks[method] = {}
        own = dataclasses.replace(usual, method=method, tasks_per_step=tasks)
        # a method that solves until it is done is the same for every K
        once = _peak(own) if numbers(own.subject).K is None else None
        for steps in config.steps:
            peak = once or _peak(dataclasses.replace(own, lower_steps=steps))
            peaks[method][str(steps)] = peak
            console.print(f"{method}, K = {steps}: {peak / 2**20:.1f} MiB", highlight=False)
    found = Measured(
        measure=ALLOCATOR if device.type == "cuda" else LIVE_BYTES,
        protocol=(
            f"{usual.data}, {usual.train}, {tasks} tasks, {usual.backbone_line()}, "
            f"normalisation {usual.normalisation}, {device.type}"
        ),
        peaks=peaks,
        **provenance.commit(),
        versions=provenance.versions(),
        device=provenance.device_name(device),
        seed=usual.seed,
    )
    try:
        write_json(config.out, dataclasses.asdict(found))
    except OSError as error:
        raise RunError(f"{config.out} can't be written ({error}): give another --out.") from error
    return found


def _peak(config: TrainConfig) -> int:
    """Peak of one upper step: by the allocator on CUDA, else by the tensors that are alive."""
    training = Training(config, config.place())
    if training.device.type != "cuda":
        return predicted_bytes(training)
    gc.collect()  # what the method before has left
    torch.cuda.reset_peak_memory_stats(training.device)
    training.advance()
    peak: int = torch.cuda.max_memory_allocated(training.device)
    return peak


def load(path: Path) -> Measured:
    """Read what `measure` wrote.

    Raises:
        RunError: it is unreadable or damaged.
    """
    try:
        return read(Measured, parse(path.read_bytes()), "it")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is unreadable or damaged ({error}): measure again.") from error
