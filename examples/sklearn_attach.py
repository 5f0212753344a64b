"""A fitted scikit-learn model, differentiated: attach to LogisticRegression's solution.

Real data: scikit-learn's breast cancer; half to fit, half to validate. theta (examples,) is the
logarithm of the sample weights, phi the fitted ``coef_`` and ``intercept_``. scikit-learn minimises

    g(theta, phi) = C sum_j exp(theta_j) nll_j(phi) + 1/2 |coef|^2,    f(phi) = mean validation nll.

``attach`` states that phi minimises g. Printed: how far the hypergradient is from differences, for
which scikit-learn is fitted anew twice an entry; and the certificate: phi does minimise this g.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hypergrad import CG, Certificate, attach

C = 0.5


def main(out: Path, *, entries: int = 40, seed: int = 0) -> dict[str, float]:
    """Compare ``entries`` entries with central differences; returns the errors, the certificate."""
    features, classes = load_breast_cancer(return_X_y=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(StandardScaler().fit_transform(features))[order]
    y = torch.tensor(classes, dtype=x.dtype)[order]
    x_fit, x_val, y_fit, y_val = x[:284], x[284:], y[:284], y[284:]

    def nll(phi: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        logits = inputs @ phi["coef"] + phi["intercept"]
        return binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return C * (theta.exp() * nll(phi, x_fit, y_fit)).sum() + phi["coef"].square().sum() / 2

    def fit(theta: Tensor) -> dict[str, Tensor]:
        model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12)
        model.fit(x_fit.numpy(), y_fit.numpy(), sample_weight=theta.detach().exp().numpy())
        solution = {"coef": model.coef_[0], "intercept": model.intercept_[0]}
        return {name: torch.tensor(value) for name, value in solution.items()}

    theta = torch.zeros(284, dtype=x.dtype, requires_grad=True)
    seen: list[Certificate] = []
    phi = attach(lower, theta, fit(theta), solver=CG(rtol=1e-10), watch=seen.append)
    nll(phi, x_val, y_val).mean().backward()
    assert theta.grad is not None
    largest = theta.grad.abs().argsort(descending=True)[:entries]
    slopes = []
    for j in largest.tolist():
        shift = torch.zeros_like(theta).index_fill(0, torch.tensor(j), 1e-4)
        plus, minus = (nll(fit(theta + h), x_val, y_val).mean() for h in (shift, -shift))
        slopes.append((plus - minus) / 2e-4)
    exact, differences = theta.grad[largest], torch.stack(slopes).detach()
    error = float((exact - differences).abs().max() / exact.abs().max())
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color="grey", lw=1, label="equal")
    axes.plot(differences * 1e3, exact * 1e3, "o", ms=4, label=f"{entries} largest entries")
    unit = "($10^{-3}$ nats per unit of log weight)"
    axes.set(xlabel=f"central difference, refitted {unit}", ylabel=f"hypergradient\n{unit}")
    axes.set_title(f"LogisticRegression: largest relative difference {error:.0e}")
    axes.legend()
    figure.savefig(out)
    result = {"relative error": error, "stationarity": seen[0].stationarity.item()}
    return result | {"adjoint residual": seen[0].adjoint.residual.item()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sklearn_attach.png"))
    for name, value in main(parser.parse_args().out).items():
        print(f"{name:>16}: {value:.3g}")
