"""The exact hypergradient, as a reference for a method's own while it trains.

The certificate bounds the distance between them; here it is computed, at the price of one exact
upper step in float64.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float64
from torch import Tensor

from hypergrad import Certificate
from metalearn.errors import UnsolvedWarning
from metalearn.methods import Method, Model
from metalearn.methods.heads import LinearHeads
from metalearn.methods.lower import exact
from metalearn.tasks.episodes import Episodes
from metalearn.training.step import accumulate

# Seven digits below what float32 can tell apart of a hypergradient.
TOLERANCE: Final = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Exactness:
    """A hypergradient d beside the exact one d*, both of all that is learned.

    Attributes:
        error: |d - d*| / |d*|.
        cosine: d'd* / (|d| |d*|).
    """

    error: float
    cosine: float


def exact_of(method: Method) -> LinearHeads | None:
    """The method with both levels solved; None where its lower level has not one minimiser.

    A head with a regulariser has one. The K-step map of ANIL and MAML is an objective of its own,
    of which they have the exact derivative.
    """
    if not isinstance(method, LinearHeads) or method.l2 == 0:
        return None
    return dataclasses.replace(method, lower=exact(rtol=TOLERANCE), learn_start=False)


def exactness(
    method: Method, model: Model, episodes: Episodes, *, tasks_per_chunk: int | None = None
) -> Exactness | None:
    """Compare the method's hypergradient on these episodes with the exact one.

    The first is computed as in training, the second in float64; both by the backbone in its testing
    mode, so that neither draws random numbers nor moves stored statistics. The model stays as it
    is.

    Args:
        method: gives the hypergradient to compare.
        model: the upper variable.
        episodes: the tasks.
        tasks_per_chunk: the most tasks at once; None: all.

    Returns:
        None where `exact_of` is None.

    Raises:
        hypergrad.NotFiniteError: a lower level, or the adjoint on it, is not finite.
    """
    reference = exact_of(method)
    if reference is None:
        return None
    certificates: list[Certificate] = []
    ours = copy.deepcopy(model)
    found = _gradient(method, ours, episodes, [], tasks_per_chunk)
    ours.precision = "float32"  # no autocast: the weights are float64 now
    wide = dataclasses.replace(episodes, images=episodes.images.double())
    true = _gradient(reference, ours.double(), wide, certificates, tasks_per_chunk)
    _say_unsolved(certificates)
    length, apart = true.norm(), (found - true).norm()
    cosine = (found @ true / (found.norm() * length)).item()
    return Exactness(error=(apart / length).item(), cosine=cosine)


def _gradient(
    method: Method,
    model: Model,
    episodes: Episodes,
    certificates: list[Certificate],
    tasks_per_chunk: int | None,
) -> Float64[Tensor, " parameters"]:
    model.eval().zero_grad(set_to_none=True)
    chunks = episodes.split(tasks_per_chunk or episodes.tasks)
    accumulate(method, model, chunks, tasks=episodes.tasks, watch=certificates.append)
    # a start that the exact minimiser does not depend on has no gradient
    learned = [p for p in model.parameters() if p.requires_grad]
    parts = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in learned]
    return torch.cat([part.flatten().double() for part in parts])


def _say_unsolved(certificates: list[Certificate]) -> None:
    for certificate in certificates:
        lower = certificate.lower_converged
        solved = certificate.adjoint.converged
        if not bool(solved.all()) or (lower is not None and not bool(lower.all())):
            residual = certificate.adjoint.residual.max().item()
            warnings.warn(
                "the exact hypergradient was not solved to its tolerance of "
                f"{TOLERANCE:.0e} (residual {residual:.1e}): the error recorded is not the true "
                "one. Regularise more (--l2).",
                UnsolvedWarning,
                stacklevel=3,
            )
