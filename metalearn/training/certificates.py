"""The lower level's certificates over a training run, left on the device until asked for."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad import Certificate, Status

# What a solve may end with that was given a number of steps and no tolerance.
_AS_ASKED: Final = (Status.CONVERGED, Status.OUT_OF_STEPS, Status.STAGNATED)


class Certificates:
    """Collects the certificates of all tasks of all upper steps.

    Calling it is cheap: nothing is copied to the host before `last`, `summary` or `verdict`.

    Args:
        steps: upper steps of the run.
        tasks: tasks of one upper step.
        fixed_steps: the lower level takes a fixed number of steps and has no tolerance; then
            running out of steps is no failure, and the residuals report the accuracy reached.
        device: holds the certificates.
    """

    COLUMNS: ClassVar = 4
    """Numbers of one task, see `since`."""

    def __init__(
        self, *, steps: int, tasks: int, fixed_steps: bool, device: torch.device | str = "cpu"
    ) -> None:
        self.tasks, self.fixed_steps = tasks, fixed_steps
        self.seen = 0
        size = steps * tasks
        self._stationarity = torch.zeros(size, device=device)
        self._residual = torch.zeros(size, device=device)
        self._status = torch.zeros(size, dtype=torch.uint8, device=device)
        self._lower_failed = torch.zeros(size, dtype=torch.bool, device=device)

    def __call__(self, certificate: Certificate) -> None:
        """Take the certificate of some tasks, in order; the `watch` of `argmin`."""
        adjoint, lower_converged = certificate.adjoint, certificate.lower_converged
        where = slice(self.seen, self.seen + adjoint.status.numel())
        self._stationarity[where] = certificate.stationarity.detach().flatten()
        self._residual[where] = adjoint.residual.detach().flatten()
        self._status[where] = adjoint.status.detach().flatten()
        if lower_converged is not None:
            self._lower_failed[where] = ~lower_converged.detach().flatten()
        self.seen = where.stop

    def state(self) -> dict[str, Tensor]:
        """The collected certificates, for `restore`."""
        return {name: buffer[: self.seen] for name, buffer in self._buffers().items()}

    def restore(self, state: dict[str, Tensor], seen: int) -> None:
        """Put back what `state` returned."""
        for name, buffer in self._buffers().items():
            buffer[:seen] = state[name]
        self.seen = seen

    def since(self, seen: int) -> Float[Tensor, "tasks 4"]:
        """Each task's numbers after the first `seen` tasks, on the host."""
        columns = [buffer[seen : self.seen].double() for buffer in self._buffers().values()]
        return torch.stack(columns, dim=1).cpu()

    def add(self, rows: Float[Tensor, "tasks 4"]) -> None:
        """Append rows of `since`, another rank's perhaps; exact, since they are widened."""
        for buffer, column in zip(self._buffers().values(), rows.T, strict=True):
            buffer[self.seen : self.seen + len(rows)] = column
        self.seen += len(rows)

    def _buffers(self) -> dict[str, Tensor]:
        return {
            "stationarity": self._stationarity,
            "residual": self._residual,
            "status": self._status,
            "lower_failed": self._lower_failed,
        }

    def last(self, steps: int) -> dict[str, float]:
        """The worst residuals and the share of failed tasks in the last `steps` upper steps.

        Empty if no certificate came: the method solves no adjoint system.
        """
        if not self.seen:
            return {}
        where = slice(max(0, self.seen - steps * self.tasks), self.seen)
        return {
            "stationarity": self._stationarity[where].max().item(),
            "residual": self._residual[where].max().item(),
            "failed": self._failed()[where].double().mean().item(),
        }

    def not_finite(self, steps: int) -> list[int]:
        """Tasks of the last `steps` upper steps with a residual that is NaN or infinite.

        Indices count all tasks of the run, as training episodes do.
        """
        first = max(0, self.seen - steps * self.tasks)
        both = torch.stack([self._stationarity, self._residual])[:, first : self.seen]
        bad = both.isfinite().logical_not().any(0).nonzero().flatten()
        return [first + int(index) for index in bad]

    def summary(self) -> dict[str, Any] | None:
        """Median and worst over all tasks of all steps and of the last step, and all counts.

        None if no certificate came.
        """
        if not self.seen:
            return None

        def both(values: Tensor) -> dict[str, float]:
            return {"median": values.median().item(), "worst": values.max().item()}

        series = {"stationarity": self._stationarity, "residual": self._residual}
        status = self._status[: self.seen]
        return {
            name: {
                "training": both(values[: self.seen]),
                "end": both(values[self.seen - self.tasks : self.seen]),
            }
            for name, values in series.items()
        } | {
            "tasks": self.seen,
            "failed": int(self._failed().sum()),
            "lower_failed": int(self._lower_failed.sum()),
            "adjoint_status": {kind.name: int((status == kind).sum()) for kind in Status},
            "fixed_steps": self.fixed_steps,
        }

    def verdict(self) -> str:
        """One line on the whole run: what was solved, what was not, where, and what to do."""
        found, failed = self.summary(), self._failed()
        if found is None:
            return "certificate: none, the method solves no adjoint system"
        median = f"median relative residual {found['residual']['training']['median']:.1e}"
        if not found["failed"]:
            how = "took the steps they were given" if self.fixed_steps else "solved to tolerance"
            worst = self._place(self._residual[: self.seen].argmax())
            return f"certificate: all {self.seen} tasks {how}; {median}, worst {worst}"
        at = self._residual[: self.seen].where(failed, -1.0).argmax()
        status = Status(int(self._status[at]))
        # a failure with an adjoint system that was solved is one of the lower level
        cause = status.name if status not in self._accepted else "the lower level, not its adjoint"
        remedy = status.remedy if status not in self._accepted else "regularise more (--l2)."
        return (
            f"certificate: {found['failed']} of {self.seen} tasks FAILED "
            f"({found['lower_failed']} lower levels; adjoint systems {found['adjoint_status']}); "
            f"{median}, worst failure {self._place(at)}: {cause}: {remedy}"
        )

    @property
    def _accepted(self) -> tuple[Status, ...]:
        return _AS_ASKED if self.fixed_steps else _AS_ASKED[:1]

    def _failed(self) -> Tensor:
        """Mask of the tasks seen: a level failed."""
        status = self._status[: self.seen]
        solved = torch.stack([status == kind for kind in self._accepted]).any(0)
        return ~solved | self._lower_failed[: self.seen]

    def _place(self, index: Tensor) -> str:
        step, task = divmod(int(index), self.tasks)
        return f"{self._residual[index].item():.1e} (upper step {step + 1}, task {task})"
