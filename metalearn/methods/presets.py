"""Named presets: each method with the numbers of the paper or script that it is named after.

A preset fixes the method and the upper step. What else a paper fixes (backbone, ways, shots,
number of steps) belongs to the protocol of a run. Where a number is not the source's, or the
method is not quite the source's, `departures` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch

from hypergrad import Detached, GradientDescent, TorchOptimiser, Unrolled
from metalearn.config.choices import MethodName, Normalisation, Optimiser, Schedule
from metalearn.errors import ConfigError
from metalearn.methods.heads import LinearHeads, ProtoNet, RidgeHeads
from metalearn.methods.lower import Lower, exact, paper, steps_of_cg
from metalearn.methods.method import Method
from metalearn.methods.networks import ImplicitMaml, Maml, Reptile

Variant: TypeAlias = Literal["as published", "best effort"]
"""`as published`: the source's algorithm and numbers; `best effort`: with the departures named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A method, and how the upper variable moves.

    Attributes:
        method: the method.
        optimiser: moves the upper variable: Adam with torch's other defaults, or plain SGD.
        learning_rate: the optimiser's.
        tasks_per_step: tasks of an upper step (B).
        schedule: the learning rate's course, constant or to 0 along a cosine.
        normalisation: statistics that normalise the backbone's activations, see `Normalisation`:
            stored ones, with which the accuracy of whole episodes is that of single pictures, too;
            those of the batch at hand where each lower step changes the statistics.
        layer_rates: factors of the learning rate for parts of the model, each as NAME=FACTOR.
        source: the paper or script of method and numbers.
        departures: differences from the source; empty if there are none.
    """

    method: Method
    optimiser: Optimiser = "adam"
    learning_rate: float
    tasks_per_step: int
    schedule: Schedule = "constant"
    normalisation: Normalisation = "stored"
    layer_rates: tuple[str, ...] = ()
    source: str
    departures: str = ""

    @property
    def variant(self) -> Variant:
        """The label that a comparison gives it."""
        return "best effort" if self.departures else "as published"


def _descent(steps: int, step_size: float) -> GradientDescent:
    return GradientDescent(max_steps=steps, step_size=step_size)


def _unrolled(by: GradientDescent, *, test: GradientDescent | None = None) -> Lower:
    return Lower(by=by, adjoint=Unrolled(), test=test)


def _adam(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    """Reptile's lower optimiser: Adam without momentum."""
    return torch.optim.Adam(parameters, lr=2.2e-4, betas=(0.0, 0.999))


_PAPER: Final = "Yang, Ma and Yu 2025 (Memory-Reduced Meta-Learning), experiments"
_L2: Final = "The regulariser 0.01 and the 4 tasks of a step are ours."

PRESETS: Final[dict[str, Preset]] = {
    "memory-reduced": Preset(
        method=LinearHeads(lower=paper(), l2=0.01),
        learning_rate=1e-3,
        tasks_per_step=4,
        source=_PAPER,
        departures=_L2,
    ),
    "memory-reduced-exact": Preset(
        method=LinearHeads(lower=exact(), l2=0.01),
        learning_rate=4e-3,
        tasks_per_step=4,
        schedule="cosine",
        source=_PAPER,
        departures=(
            "Both levels to round-off instead of K and N steps; the learning rate and its schedule "
            f"are ours. {_L2}"
        ),
    ),
    "itd-bio": Preset(
        method=LinearHeads(lower=_unrolled(_descent(20, 0.05)), l2=0.01),
        learning_rate=1e-4,
        tasks_per_step=4,
        source=f"{_PAPER}; method: Ji, Yang and Liang 2021",
        departures=f"{_L2} Heads start at 0, not at random.",
    ),
    "anil": Preset(
        method=LinearHeads(lower=_unrolled(_descent(10, 0.05)), l2=0.0, learn_start=True),
        learning_rate=2e-3,
        tasks_per_step=32,
        source="Ji, Yang and Liang 2021, ANIL script for miniImageNet; method: Raghu et al. 2020",
        departures="Support and query are normalised apart, there together.",
    ),
    "maml": Preset(
        method=Maml(lower=_unrolled(_descent(5, 0.01), test=_descent(10, 0.01))),
        learning_rate=1e-3,
        tasks_per_step=4,
        normalisation="transductive",
        source="Finn, Abbeel and Levine 2017, miniImageNet 1-shot",
        departures="Their clipping of the upper gradient to [-10, 10] is left to the optimiser.",
    ),
    "maml-omniglot": Preset(
        method=Maml(lower=_unrolled(_descent(1, 0.4), test=_descent(3, 0.4))),
        learning_rate=1e-3,
        tasks_per_step=32,
        normalisation="transductive",
        source="Finn, Abbeel and Levine 2017, Omniglot 5-way",
    ),
    "maml-omniglot-20way": Preset(
        method=Maml(lower=_unrolled(_descent(5, 0.1))),
        learning_rate=1e-3,
        tasks_per_step=16,
        normalisation="transductive",
        source="Finn, Abbeel and Levine 2017, Omniglot 20-way",
    ),
    "maml-baseline": Preset(
        method=Maml(lower=_unrolled(_descent(3, 0.5))),
        learning_rate=5e-3,
        tasks_per_step=4,
        normalisation="transductive",
        source=_PAPER,
        departures=(
            "The steps are of the mean loss; the learn2learn script divides the mean by the number "
            "of support images once more (5-way 5-shot: a step size of 0.02). The 4 tasks of a "
            "step are ours."
        ),
    ),
    "maml-learn2learn": Preset(
        method=Maml(lower=_unrolled(_descent(1, 0.5 / 25))),
        learning_rate=3e-3,
        tasks_per_step=32,
        normalisation="transductive",
        source="learn2learn's script for miniImageNet, 5-way 5-shot",
        departures="The step size is that of 5-way 5-shot, whatever the tasks.",
    ),
    "fomaml": Preset(
        method=Maml(lower=Lower(by=_descent(5, 0.01), adjoint=Detached(), test=_descent(10, 0.01))),
        learning_rate=1e-3,
        tasks_per_step=4,
        normalisation="transductive",
        source="Finn, Abbeel and Levine 2017, miniImageNet 1-shot, first order",
        departures="Their clipping of the upper gradient to [-10, 10] is left to the optimiser.",
    ),
    "imaml": Preset(
        method=ImplicitMaml(
            lower=Lower(by=_descent(16, 0.1), adjoint=steps_of_cg(5)),
            strength=2.0,
        ),
        learning_rate=1e-3,
        tasks_per_step=32,
        normalisation="transductive",
        source="Rajeswaran et al. 2019, the authors' command for Omniglot 5-way",
        departures=(
            "All 16 steps are of the tied objective (there 16 of the loss, one of the tie), and "
            "the adjoint system is its Hessian's (there damped by 1 more). Testing keeps the tie, "
            "which they leave out."
        ),
    ),
    "reptile": Preset(
        method=Reptile(
            lower=Lower(
                by=TorchOptimiser(make=_adam, max_steps=8),
                adjoint=Detached(),
                test=TorchOptimiser(make=_adam, max_steps=88),
            )
        ),
        optimiser="sgd",
        learning_rate=1.0,
        tasks_per_step=5,
        normalisation="transductive",
        source="Nichol, Achiam and Schulman 2018, the authors' command for miniImageNet 5-shot",
        departures=(
            "Each lower step takes all images of the task (there 10 of them). Their upper step "
            "falls to 0."
        ),
    ),
    "r2d2": Preset(
        method=RidgeHeads(l2=50.0, sharpness=10.0),
        learning_rate=5e-3,
        tasks_per_step=1,
        source="Bertinetto et al. 2019, the authors' script for CIFAR-FS",
        departures=(
            "The regulariser is learned, as in the article (in the script it is not by default). "
            "Their backbone joins its last two blocks and drops activations. Their learning rate "
            "halves on the way."
        ),
    ),
    "protonet": Preset(
        method=ProtoNet(),
        learning_rate=1e-3,
        tasks_per_step=1,
        source="Snell, Swersky and Zemel 2017",
        departures="Their learning rate halves every 2,000 episodes.",
    ),
}
"""The presets by name."""


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset was given as {name!r}: it is one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def shared_normalisation(names: Sequence[MethodName]) -> Normalisation:
    """One normalisation for several methods: their own, or `transductive`, which all can have."""
    own = {preset(name).normalisation for name in names}
    return own.pop() if len(own) == 1 else "transductive"
