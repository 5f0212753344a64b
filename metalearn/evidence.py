"""The lower level's certificates over a training run, left on the device until asked for."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad import Certificate


class Evidence:
    """Collects stationarity and adjoint residual of every task of every upper step.

    Calling it is cheap: nothing is copied to the host before `summary` or `last`.
    """

    def __init__(self) -> None:
        self._stationarity: list[Float[Tensor, " T"]] = []
        self._residual: list[Float[Tensor, " T"]] = []

    def __call__(self, certificate: Certificate) -> None:
        """Take one certificate; the `watch` of `argmin`."""
        self._stationarity.append(certificate.stationarity.detach())
        self._residual.append(certificate.adjoint.residual.detach())

    def __len__(self) -> int:
        return len(self._residual)

    def last(self, steps: int) -> dict[str, float]:
        """Worst of the last `steps` upper steps."""
        return {
            "stationarity": torch.cat(self._stationarity[-steps:]).max().item(),
            "residual": torch.cat(self._residual[-steps:]).max().item(),
        }

    def summary(self) -> dict[str, Any]:
        """Median and worst over all tasks of all steps, and of the last step."""

        def both(parts: list[Float[Tensor, " T"]]) -> dict[str, float]:
            values = torch.cat(parts)
            return {"median": values.median().item(), "worst": values.max().item()}

        series = {"stationarity": self._stationarity, "residual": self._residual}
        return {
            name: {"training": both(parts), "end": both(parts[-1:])}
            for name, parts in series.items()
        }
