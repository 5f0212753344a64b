"""What a check found, as tables and as plain values."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hypergrad.checks.report import Report
from verification.check.advice import Advice, Measured
from verification.check.estimates import Estimate
from verification.check.trajectory import Trajectory
from verification.check.verdicts import Finding, Verdict

_STYLES = {Verdict.HOLDS: "green", Verdict.VIOLATED: "bold red", Verdict.UNKNOWN: "yellow"}
_SYMBOLS = (
    ("mu", "strong_convexity"),
    ("L", "smoothness"),
    ("L12", "coupling"),
    ("lam12", "upper_coupling"),
    ("lam22", "upper_smoothness"),
    ("rH", "hessian_lipschitz"),
    ("rJ", "coupling_lipschitz"),
    ("V", "adjoint_norm"),
    ("b*", "upper_gradient"),
)


@dataclass(frozen=True)
class Checked:
    """Everything that was found.

    Attributes:
        target: ``module:function``.
        accuracy: that was asked for.
        own: `hypergrad.check`'s report at the first minimiser; None if there was no minimiser.
        trajectory: where it was looked.
        estimates: of the constants, one for each upper iterate.
        findings: one for each assumption.
        advice: None where no number of steps can be recommended.
        measured: errors against the reference solve.
    """

    target: str
    accuracy: float
    own: Report | None
    trajectory: Trajectory
    estimates: Sequence[Estimate]
    findings: Sequence[Finding]
    advice: Advice | None
    measured: Sequence[Measured]

    @property
    def violated(self) -> list[Finding]:
        """The assumptions that do not hold."""
        return [finding for finding in self.findings if finding.verdict is Verdict.VIOLATED]

    @property
    def met(self) -> bool:
        """Whether the recommendation was measured to keep to the accuracy, or not tried."""
        first = [m for m in self.measured if m.choice.name == "recommended"]
        return all(math.isnan(m.error) or m.error <= self.accuracy for m in first)

    @property
    def passed(self) -> bool:
        """Whether nothing is violated, the objectives are sound, and the accuracy was met."""
        return not self.violated and self.met and self.own is not None and self.own.passed

    def plain(self) -> dict[str, Any]:
        """As JSON has it; numbers that it lacks as text."""
        own = self.own
        advice = None
        if self.advice is not None:
            plan = self.advice.plan
            advice = {
                "steps": plan.steps,
                "max_steps": plan.max_steps,
                "step_size": plan.step_size,
                "bound": float(torch.as_tensor(plan.bound.value).max()),
                "upper_step_size": self.advice.upper_step_size,
                "constants": self.advice.constants,
            }
        whole = {
            "target": self.target,
            "passed": self.passed,
            "accuracy": self.accuracy,
            "scale": self.trajectory.scale,
            "upper_step_size": self.trajectory.step_size,
            "broken": self.trajectory.broken,
            "objectives": None if own is None else [_row(f) for f in own.findings],
            "assumptions": [_row(finding) for finding in self.findings],
            "trajectory": [
                {
                    "value": visit.value,
                    "gradient_norm": float(visit.grad.norm()),
                    "stationarity": visit.stationarity,
                }
                for visit in self.trajectory.visits
            ],
            "estimates": [asdict(estimate) for estimate in self.estimates],
            "advice": advice,
            "measured": [
                {**asdict(m.choice), "error": m.error, "note": m.note} for m in self.measured
            ],
        }
        plain: dict[str, Any] = _finite(whole)
        return plain

    def tell(self, console: Console) -> None:
        """Print everything."""
        console.print(f"verification check: {self.target}", style="bold", highlight=False)
        if self.own is not None:
            console.print(f"the objectives themselves: {self.own.advice}", highlight=False)
        console.print(self._assumptions())
        if self.estimates:
            console.print(self._constants())
        if self.measured:
            console.print(self._errors())
        for line in self._sentences():
            console.print(line, highlight=False, markup=False)

    def _assumptions(self) -> Table:
        table = Table(title="assumptions of the theory (docs/theory.md)", title_justify="left")
        table.add_column("assumption")
        table.add_column("verdict")
        table.add_column("what was measured", overflow="fold")
        for finding in self.findings:
            style = _STYLES[finding.verdict]
            table.add_row(finding.name, f"[{style}]{finding.verdict.value}[/]", finding.evidence)
        return table

    def _constants(self) -> Table:
        table = Table(title="estimates (the worst task)", title_justify="left")
        table.add_column("constant")
        for name in ("first iterate", "last iterate", "worst"):
            table.add_column(name, justify="right")
        values = [asdict(estimate) for estimate in self.estimates]
        for symbol, name in _SYMBOLS:
            key = "mu" if symbol == "mu" else name
            every = [value[key] for value in values]
            extreme = min(every) if symbol == "mu" else max(every)
            table.add_row(symbol, f"{every[0]:.4g}", f"{every[-1]:.4g}", f"{extreme:.4g}")
        first, last = self.estimates[0].condition, self.estimates[-1].condition
        whole = math.inf
        if all(e.condition < math.inf for e in self.estimates):
            whole = max(e.smoothness for e in self.estimates) / min(e.mu for e in self.estimates)
        table.add_row("kappa", *map(_condition, (first, last, whole)))
        return table

    def _errors(self) -> Table:
        title = "error against a long reference solve, relative to the largest hypergradient"
        table = Table(title=title, title_justify="left")
        table.add_column("steps")
        for name in ("K", "N", "lower step size", "error", f"within {self.accuracy:g}"):
            table.add_column(name, justify="right")
        for m in self.measured:
            shown = m.note or f"{m.error:.2e}"
            within = "" if math.isnan(m.error) else "yes" if m.error <= self.accuracy else "no"
            c = m.choice
            table.add_row(
                c.name, str(c.steps), str(c.max_steps), f"{c.step_size:.3g}", shown, within
            )
        return table

    def _sentences(self) -> list[str]:
        lines = [f"To do: {finding.name}: {finding.remedy}." for finding in self.violated]
        if self.advice is None:
            lines.append(
                "No K and N can be recommended: the bounds need a mu that is above 0 by more than "
                "rounding beside L, on all of the trajectory."
            )
        else:
            plan, eta = self.advice.plan, self.advice.upper_step_size
            lines.append(
                f"Recommended: GradientDescent(max_steps={plan.steps}, "
                f"step_size={plan.step_size:.3g}) and CG(rtol=0, max_steps={plan.max_steps}); "
                f"upper steps of at most {eta:.3g} (1/L_F, from the gradients met). From "
                "estimates, so no guarantee; as a bound they are generous, and fewer steps may do "
                "(see the table)."
            )
        if not self.met:
            lines.append(
                "The recommended steps miss the accuracy: a constant is larger than the trajectory "
                "shows, or the precision does not reach that far."
            )
        return lines


def _condition(number: float) -> str:
    return f"{number:.4g}" if number < math.inf else "none"


def _row(finding: Any) -> dict[str, Any]:
    return {
        "name": finding.name,
        "verdict": finding.verdict.value,
        "evidence": finding.evidence,
        "remedy": finding.remedy,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
