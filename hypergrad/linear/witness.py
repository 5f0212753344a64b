"""What a solver's answer is worth: its residual by a product that was seen, not reported."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.solution import LinearMap, Solution, Status, norm, scale_of
from hypergrad.linear.structured import Structured


@dataclass(slots=True)
class _Seen:
    """A vector, its product, and how often each had been written to."""

    vector: Tensor
    image: Tensor
    versions: tuple[int, int]


class Witness:
    """A linear map that remembers its last judging product, so that none is taken twice.

    A solver that ends by the product with its own x, as this library's do, is judged by that
    product; any other by one more, whatever it reports.
    """

    def __init__(self, apply: LinearMap) -> None:
        self._apply = apply
        self._seen: _Seen | None = None

    @property
    def map(self) -> LinearMap:
        """What the solver is given; it knows what the map knows."""
        return _Structured(self) if isinstance(self._apply, Structured) else self._plain

    def examine(self, solution: Solution, rhs: Float[Tensor, "*batch n"]) -> Solution:
        """The solution with the residual of its x, and DENIED where it had claimed a smaller one.

        A claim is denied by more than rounding: past twice what was reported, and past
        ``sqrt(eps)``, which a residual's rounding, ``eps kappa`` (theory.md, section 6), exceeds
        only where kappa leaves less than half of the digits.

        Raises:
            InputError: an answer that does not have the shape of the right-hand side.
        """
        if solution.x.shape != rhs.shape or solution.status.shape != rhs.shape[:-1]:
            raise InputError(
                f"the solver answered a right-hand side of shape {tuple(rhs.shape)} with x of "
                f"shape {tuple(solution.x.shape)} and status of shape "
                f"{tuple(solution.status.shape)}; x must be like the right-hand side, and the rest "
                "have one value for each task."
            )
        image, products = self._image(solution.x.detach(), scale_of(rhs))
        size = norm(rhs)
        true = norm(rhs - image) / torch.where(size > 0, size, 1.0)
        allowed = (2 * solution.residual).clamp(min=torch.finfo(rhs.dtype).eps ** 0.5)
        denied = ~(true <= allowed)  # True for NaN, too
        status = solution.status.masked_fill(
            denied & (solution.status == Status.CONVERGED), Status.DENIED
        )
        return replace(
            solution,
            status=status,
            # as reported where that is no less; a NaN stays one
            residual=torch.where(true <= solution.residual, solution.residual, true),
            matvecs=solution.matvecs + products,
        )

    def _image(self, x: Tensor, scale: Tensor) -> tuple[Tensor, int]:
        """``A x`` and how many products it took: none if the last one judged was that."""
        seen = self._seen
        if seen is not None and seen.versions == (seen.vector._version, seen.image._version):
            if torch.equal(seen.vector, x):
                return seen.image, 0
            if torch.equal(seen.vector * scale, x):  # solved for rhs / scale, an exact division
                return seen.image * scale, 0
        if not bool((x != 0).any()):
            return torch.zeros_like(x), 0
        with torch.no_grad():
            return self._judge(x), 1

    def _plain(self, vector: Tensor) -> Tensor:
        return self._remember(vector, self._apply(vector))

    def _judge(self, vector: Tensor) -> Tensor:
        by = self._apply.judge if isinstance(self._apply, Structured) else self._apply
        return self._remember(vector, by(vector))

    def _remember(self, vector: Tensor, image: Tensor) -> Tensor:
        self._seen = _Seen(vector, image, (vector._version, image._version))
        return image


@dataclass(frozen=True, slots=True)
class _Structured:
    """The map of a witness to a structured one: only the judging products count."""

    witness: Witness

    @property
    def _known(self) -> Structured:
        apply = self.witness._apply
        assert isinstance(apply, Structured)
        return apply

    def __call__(self, vector: Tensor) -> Tensor:
        return self._known(vector)

    def judge(self, vector: Tensor) -> Tensor:
        return self.witness._judge(vector)

    def inverse(self, rhs: Tensor) -> Tensor:
        return self._known.inverse(rhs)

    def diagonal(self) -> Tensor:
        return self._known.diagonal()
