"""Settings of a training run in groups of what belongs together; each group checks its own.

The names of the shell's options, and of the settings in files, are those of the fields; where a
group's field needs its group to be understood (`run.folder`), it is named in `NAMES`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import arg

from metalearn.config.checks import (
    parse_bytes,
    parse_rate,
    require_at_least,
    require_one_of,
    require_positive,
)
from metalearn.config.choices import (
    GIVEN,
    TIMM,
    AdjointName,
    BackboneName,
    DataName,
    Device,
    MethodName,
    Normalisation,
    Optimiser,
    Precision,
    Residency,
    Schedule,
    TrackerName,
)
from metalearn.config.schema import LATER
from metalearn.errors import ConfigError

NAMES: Final = {
    ("run", "folder"): "run",
    ("data", "name"): "data",
    ("data", "root"): "data_root",
    ("method", "name"): "method",
    ("backbone", "name"): "backbone",
    ("memory", "budget"): "memory_budget",
}
"""Options whose name is not that of their field, by (group, field)."""


def unset(kind: str, meaning: str = "the method's", *, name: str | None = None) -> object:
    """An option that may be missing: what kind of value it takes, and what is done without it."""
    return arg(name=name, metavar=kind, help_behavior_hint=f"(default: {meaning})")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeShape:
    """Shape of one episode.

    Attributes:
        way: Number of classes in an episode.
        shot: Labelled (support) images of each class.
        query: Images of each class to classify.
        fewest_way: Draw the number of classes of each episode, from this one to `way`.
        fewest_shot: Draw the number of support images of each class, from this one to `shot`.
    """

    way: int = 5
    shot: int = 1
    query: int = 5
    fewest_way: Annotated[int | None, unset("INT", "`way`")] = field(
        default=None, metadata={LATER: True}
    )
    fewest_shot: Annotated[int | None, unset("INT", "`shot`")] = field(
        default=None, metadata={LATER: True}
    )

    def __post_init__(self) -> None:
        require_at_least("way", self.way, 2)
        require_at_least("shot", self.shot, 1)
        require_at_least("query", self.query, 1)
        require_at_least("fewest_way", self.fewest_way, 2)
        require_at_least("fewest_shot", self.fewest_shot, 1)
        for name, fewest, most in (
            ("way", self.fewest_way, self.way),
            ("shot", self.fewest_shot, self.shot),
        ):
            if fewest is not None and fewest > most:
                raise ConfigError(
                    f"fewest_{name} was given as {fewest}, which is more than {name}, {most}."
                )

    @property
    def varies(self) -> bool:
        """Episodes differ in their number of classes or of support images."""
        return self.fewest_way is not None or self.fewest_shot is not None

    def __str__(self) -> str:
        way = "" if self.fewest_way is None else f"{self.fewest_way} to "
        shot = "" if self.fewest_shot is None else f"{self.fewest_shot} to "
        return f"{way}{self.way}-way {shot}{self.shot}-shot, {self.query} queries per class"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Folder of a run, and the device that it runs on.

    Attributes:
        folder: New or empty folder for the results.
        resume: Folder of a stopped run to continue. All settings are those of that run.
        seed: Seed of the initial weights and of the training episodes. Validation and test episodes
            are the same for every seed.
        device: Device to compute on. `auto` takes CUDA if there is one.
        threads: Number of CPU threads. Another number can change the last digits of a result.
        checkpoint_every: Upper steps between checkpoints. A stopped run resumes from the last one.
        tracker: Where metrics are logged. `wandb` needs its package.
        dry_run: Print the plan and the memory it would take, and train nothing.
    """

    folder: Annotated[Path | None, unset("PATH", "runs/DATA-METHOD-TIME", name="run")] = None
    resume: Annotated[Path | None, unset("PATH", "a new run")] = None
    seed: int = 0
    device: Device = "auto"
    threads: int = 2
    checkpoint_every: int = 100
    tracker: TrackerName = "tensorboard"
    dry_run: bool = False

    def __post_init__(self) -> None:
        require_one_of("device", self.device, Device)
        require_one_of("tracker", self.tracker, TrackerName)
        require_at_least("threads", self.threads, 1)
        require_at_least("checkpoint_every", self.checkpoint_every, 1)
        require_at_least("seed", self.seed, 0)
        if self.seed >= 2**32:  # torch's generator takes no more: others would share weights
            raise ConfigError(f"seed was given as {self.seed}: it must be below 2^32.")
        if self.threads > 1024:
            raise ConfigError(f"threads was given as {self.threads}: it must be at most 1024.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Images to draw episodes from.

    Attributes:
        name: Data set. `glyphs` is built in; `metalearn prepare` makes the others.
        root: Folder given to `metalearn prepare` as --root.
        residency: Where prepared images are held: in the device's memory, or mapped from the file
            by the host. `auto` takes the device if they fit.
        augment: Change training images at random: photographs are cropped, mirrored and changed in
            colour. The small distortions of glyphs, in all splits, stay with --no-augment, and so
            do Omniglot's turned characters, which are classes of their own.
        jitter: Move each training drawing of Omniglot by a small random affine map, the one that
            glyphs get. The published protocol has none.
    """

    name: Annotated[DataName, arg(name="data")] = "glyphs"
    root: Annotated[Path | None, unset("PATH", "the cache folder", name="data-root")] = None
    residency: Residency = "auto"
    augment: bool = True
    jitter: bool = False

    def __post_init__(self) -> None:
        require_one_of("data", self.name, DataName)
        require_one_of("residency", self.residency, Residency)
        if self.jitter and self.name != "omniglot":
            raise ConfigError(
                f"jitter was given with data {self.name}: it is for omniglot; glyphs have it, and "
                "photographs are changed by --augment."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSettings:
    """A few-shot method, and numbers that replace its own; None keeps them.

    Attributes:
        name: Few-shot method with the numbers of its source. docs/methods.md describes each.
        lower_steps: Number K of lower-level steps in training.
        test_lower_steps: Number K of lower-level steps in validation and testing.
        step_size: Step size of the lower level's gradient descent.
        adjoint: Adjoint solver for softmax heads: `cg` (N steps, 20 by default) or `woodbury`, a
            direct solve.
        adjoint_steps: Number N of conjugate-gradient steps for the adjoint system.
        l2: Weight of the L2 penalty on the head.
        wide_heads: Solve and differentiate softmax heads in float64, whatever the backbone's
            precision. The residual of the adjoint system then reaches its tolerance where float32
            stagnates.
    """

    name: Annotated[MethodName, arg(name="method")] = "memory-reduced-exact"
    lower_steps: Annotated[int | None, unset("INT")] = None
    test_lower_steps: Annotated[int | None, unset("INT")] = None
    step_size: Annotated[float | None, unset("FLOAT")] = None
    adjoint: Annotated[AdjointName | None, unset("{cg,woodbury}")] = None
    adjoint_steps: Annotated[int | None, unset("INT")] = None
    l2: Annotated[float | None, unset("FLOAT")] = None
    wide_heads: bool = False

    def __post_init__(self) -> None:
        require_one_of("method", self.name, MethodName)
        if self.adjoint is not None:
            require_one_of("adjoint", self.adjoint, AdjointName)
        require_at_least("lower_steps", self.lower_steps, 1)
        require_at_least("test_lower_steps", self.test_lower_steps, 0)
        require_at_least("adjoint_steps", self.adjoint_steps, 1)
        require_positive("step_size", self.step_size)
        require_positive("l2", self.l2)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSettings:
    """The network that turns images into features.

    Attributes:
        name: Network: `conv4` (four blocks of --filters channels), `conv4-wide` (four blocks of
            channels 96, 192, 384 and 512), `resnet12` (64, 160, 320 and 640), timm:NAME (a model
            of the package timm), or MODULE:FUNCTION, where the function returns a torch module from
            images (N, C, H, W) to features (N, D).
        pretrained: File of weights that timm:NAME or MODULE:FUNCTION starts from: safetensors, or
            a state dict that torch.save wrote. Recorded as its SHA-256.
        frozen: Learn nothing of timm:NAME or MODULE:FUNCTION: its weights stay, dropout is off, and
            its batch normalisation goes by stored statistics.
        cache_features: Compute the features of a --frozen network once, and keep them in the cache
            folder. Training images must not be changed at random (--no-augment).
        filters: Channels of each block of conv4.
        drop_rate: Rate of DropBlock in resnet12.
        normalisation: Statistics that normalise activations: `transductive` (of the task's own
            batch, support and query apart), `stored` (running averages in testing) or `group` (of
            each image by itself). The accuracy that is printed is that of whole episodes with
            `transductive`, and that of single pictures with the others. Without it: `stored`, or
            `transductive` for methods that adapt the whole network, such as maml.
        precision: Number format of the backbone's products. The lower level computes in float32,
            or in float64 if that is chosen here.
        channels_last: Memory layout of images and weights: channels last or not. Known to be faster
            for conv4 on a CPU, unless the method differentiates the network twice.
    """

    name: Annotated[
        str, arg(name="backbone", metavar="{conv4,conv4-wide,resnet12,timm:NAME,MODULE:FUNCTION}")
    ] = "conv4"
    pretrained: Annotated[str | None, unset("FILE", "random weights")] = None
    frozen: bool = False
    cache_features: bool = False
    filters: int = 32
    drop_rate: float = 0.1
    normalisation: Annotated[Normalisation | None, unset("{transductive,stored,group}")] = None
    precision: Precision = "float32"
    channels_last: Annotated[bool | None, unset("{True,False}", "where it is faster")] = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s:]+:[^\s:]+", self.name):
            require_one_of("backbone", self.name, BackboneName, beside="timm:name, module:function")
        if self.normalisation is not None:
            require_one_of("normalisation", self.normalisation, Normalisation)
        require_one_of("precision", self.precision, Precision)
        require_at_least("filters", self.filters, 1)
        if not 0 <= self.drop_rate < 1:
            raise ConfigError(f"drop_rate was given as {self.drop_rate}: it must be in [0, 1).")

    @property
    def own(self) -> bool:
        """The network is the user's, not one of the built-in ones."""
        return ":" in self.name

    @property
    def option(self) -> str:
        """The option that names the user's network again; empty if there is none to name."""
        named = self.own and not self.name.startswith((GIVEN, TIMM))
        return f" --backbone {self.name}" if named else ""

    def __str__(self) -> str:
        own = {"conv4": f"-{self.filters}", "resnet12": f", drop rate {self.drop_rate}"}
        start = "" if self.pretrained is None else f", pretrained {self.pretrained[:19]}"
        return f"{self.name}{own.get(self.name, '')}{start}{', frozen' * self.frozen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """Ways to take less memory.

    Attributes:
        tasks_per_chunk: Largest number of tasks in memory at once.
        budget: Memory that a step may take, as 2GiB or 500MB. Sets --tasks-per-chunk.
        recompute: Compute the backbone's activations again in the backward pass instead of keeping
            them. Not for a backbone called within torch.func.grad or vjp, which torch refuses.
        streamed: Keep no activations of the backbone: pass one task's support or query images at a
            time, and again in the backward pass. Costs a second forward pass. With stored
            normalisation the averages then move once for each task instead of each chunk.
    """

    tasks_per_chunk: Annotated[int | None, unset("INT", "all of a step")] = None
    budget: Annotated[str | None, unset("SIZE", "no limit", name="memory-budget")] = None
    recompute: bool = False
    streamed: bool = False

    def __post_init__(self) -> None:
        require_at_least("tasks_per_chunk", self.tasks_per_chunk, 1)
        if self.budget is not None:
            parse_bytes(self.budget)
            if self.tasks_per_chunk is not None:
                raise ConfigError(
                    f"memory_budget {self.budget} and tasks_per_chunk "
                    f"{self.tasks_per_chunk} were given, of which one decides the other: give one."
                )
        if self.streamed and self.recompute:
            raise ConfigError(
                "streamed and recompute were given, which both compute activations again: give one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimisationSettings:
    """The upper level: how the backbone is trained; None keeps the method's own.

    Attributes:
        steps: Number of upper steps. 0 tests the initial weights as they are.
        tasks_per_step: Number B of tasks of each upper step.
        learning_rate: Learning rate at the first upper step.
        optimiser: Optimiser of the upper level.
        schedule: Learning rate over the run: `constant`, or `cosine`, which falls to 0.
        layer_rates: Factors of the learning rate for parts of the model, each as NAME=FACTOR. NAME
            is that of a module or parameter, as in the file of weights: `backbone`,
            `backbone.convs.0`, `own.head`. The longest NAME that fits decides. 0 freezes the part.
        patience: End training after this many validations without a new best.
        seconds: End training at the first upper step after this many seconds of the run, even if
            steps are left.
    """

    steps: int = 800
    tasks_per_step: Annotated[int | None, unset("INT")] = None
    learning_rate: Annotated[float | None, unset("FLOAT")] = None
    optimiser: Annotated[Optimiser | None, unset("{adam,sgd}")] = None
    schedule: Annotated[Schedule | None, unset("{constant,cosine}")] = None
    layer_rates: Annotated[
        tuple[str, ...], arg(metavar="NAME=FACTOR", help_behavior_hint="(default: 1 for all)")
    ] = ()
    patience: Annotated[int | None, unset("INT", "never")] = None
    seconds: Annotated[float | None, unset("FLOAT", "no limit")] = None

    def __post_init__(self) -> None:
        if self.optimiser is not None:
            require_one_of("optimiser", self.optimiser, Optimiser)
        if self.schedule is not None:
            require_one_of("schedule", self.schedule, Schedule)
        require_at_least("steps", self.steps, 0)
        require_at_least("tasks_per_step", self.tasks_per_step, 1)
        require_at_least("patience", self.patience, 1)
        require_positive("learning_rate", self.learning_rate)
        require_positive("seconds", self.seconds)
        names = [parse_rate(text)[0] for text in self.layer_rates]
        if len(set(names)) < len(names):
            raise ConfigError(f"layer_rates was given {self.layer_rates}: name each part once.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """Validation while training, and the test at its end.

    Attributes:
        validate_every: Upper steps between validations.
        validation_episodes: Number of episodes of each validation.
        test_episodes: Number of episodes of the final test.
        hypergradient_error: At each validation, measure the hypergradient's distance from the exact
            one, on tasks that are never trained on. Costs a few upper steps each time. Needs a
            method whose lower level has a single minimiser.
    """

    validate_every: int = 100
    validation_episodes: int = 200
    test_episodes: int = 600
    hypergradient_error: bool = False

    def __post_init__(self) -> None:
        require_at_least("validate_every", self.validate_every, 1)
        # An interval needs a standard deviation, and that two values.
        require_at_least("validation_episodes", self.validation_episodes, 2)
        require_at_least("test_episodes", self.test_episodes, 2)


def normalised(statistics: str) -> str:
    """Words for what normalises an image, to stand beside every accuracy."""
    alone = statistics != "transductive"
    what = "single pictures, too" if alone else "whole episodes, not of single pictures"
    return f"normalisation {statistics} (accuracy of {what})"
