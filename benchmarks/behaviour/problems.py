"""The eight situations: small problems in float64 whose answers are known by hand.

Plain numbers, so that a peer's environment needs nothing of this project. Each case asks for the
derivative of an upper objective at the minimiser of a lower one,

    g(theta, phi) = phi' diag(H) phi / 2 - theta' phi,    phi* = theta / H,

unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One situation.

    Attributes:
        title: question, for the page.
        truth: the right answer; None where there is no derivative.
        why: where the answer comes from.
    """

    title: str
    truth: tuple[float | None, ...]
    why: str


INDEFINITE = (1.0, -1.0)  # H; theta = (1, 1), the upper objective is the sum of phi
SLOW = (1.0, 0.1)  # H; theta = (1, 1), the upper objective is |phi|^2/2
DESCENT_STEPS = 20  # of step size 1 from zero: phi = (1, 10 (1 - 0.9^20)) = (1, 8.78)
TWO_TASKS = ((1.0, 1.0), (2.0, 4.0))  # H of each; theta = 1
SMALL = 1e-6  # what the second task's upper objective is multiplied by
KINK = (-1.0, 0.0, 1.0)  # theta, projected onto phi >= 0
MATRIX = ((2.0, 1.0), (1.0, 3.0))  # A of phi'(A + diag exp(theta)) phi/2 - sum phi; theta = 0
SOLUTION = (3 / 11, 2 / 11)  # its minimiser
HESSIAN_UNIT = 1 / 1331  # unit of the second derivative's error

CASES: dict[str, Case] = {
    "indefinite": Case(
        "indefinite Hessian",
        (1.0, -1.0),
        "H = diag(1, -1) at the saddle point (1, -1), f = φ₁ + φ₂. This "
        "is the derivative of the saddle point; there is no minimiser.",
    ),
    "unconverged": Case(
        "lower solve ended early",
        (1.0, 100.0),
        "H = diag(1, 0.1), θ = (1, 1), f = ‖φ‖²/2, after 20 descent steps of size 1 from zero "
        "(or as few steps as the library takes).",
    ),
    "no_minimiser": Case(
        "φ = 0, which is no minimiser",
        (1.0, 100.0),
        "The same problem, with φ = (0, 0) handed over as its solution.",
    ),
    "zero_dim": Case("0-dim θ and φ", (0.5,), "g = φ² − θφ, all of shape (), f = φ."),
    "second": Case(
        "second derivative",
        (-27.0, -12.0, -12.0, -20.0),
        "g = φᵀ(A + diag exp θ)φ/2 − φ₁ − φ₂ with A = (2 1; 1 3) at θ = 0, where φ* = (3, 2)/11, "
        "f = φ₁ + φ₂: the Hessian of F in units of 1/1331.",
    ),
    "active_set": Case(
        "active-set change",
        (0.0, None, 1.0),
        "g = ‖φ − θ‖²/2 over φ ≥ 0 with θ = (−1, 0, 1), f = the sum of φ. At 0 there is no "
        "derivative: it is 0 on the left and 1 on the right.",
    ),
    "captured": Case(
        "captured tensor",
        (1.0, 1.0),
        "g = ‖φ − θ − c‖²/2, where c requires grad and is taken from the surrounding scope, "
        "f = φ₁ + φ₂: the derivative to c.",
    ),
    "batches": Case(
        "two tasks of different size",
        (0.5, 0.25),
        "H = diag(1, 1) and diag(2, 4), upper objectives φ₁ + φ₂ and 10⁻⁶ (φ₁ + φ₂), solved "
        "together: the second task's derivative over 10⁻⁶.",
    ),
}
