"""An elastic net's two strengths, tuned by the hypergradient on validation data.

Real data: scikit-learn's diabetes patients, 10 measured features and 50 of noise. theta holds the
logarithms of the two strengths, phi (features,) the coefficients, most of them exactly zero:

    g(theta, phi) = |X phi - y|^2 / (2 n) + exp(theta_1) |phi|_1 + exp(theta_2)/2 |phi|^2,
    f(phi)        = mean squared error on validation patients.

The rival is scikit-learn's ElasticNet on a grid of 60 pairs. Printed: errors of both, the number of
coefficients, and how far scikit-learn's are from ours at the same strengths.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet as Rival
from torch import Tensor

from hypergrad import Implicit, argmin
from hypergrad.conditions import Composite, ElasticNet
from hypergrad.solvers import ProximalGradient


def main(out: Path, *, steps: int = 40) -> dict[str, float]:
    """Tune both strengths from exp(-3) each; returns errors, the support and distances."""
    draw = torch.Generator().manual_seed(0)
    measured, progress = (torch.tensor(part) for part in load_diabetes(return_X_y=True))
    noise = torch.randn(len(progress), 50, generator=draw, dtype=torch.float64)
    x = torch.cat([(measured - measured.mean(0)) / measured.std(0), noise], dim=1)
    y = (progress - progress.mean()) / progress.std()
    order = torch.randperm(len(y), generator=draw)
    (x_fit, x_val, x_test), (y_fit, y_val, y_test) = (p[order].split(150) for p in (x, y))
    lower: Composite[Tensor, Tensor] = Composite(
        lambda theta, phi: torch.nn.functional.mse_loss(x_fit @ phi, y_fit) / 2,
        ElasticNet(lambda theta: theta[0].exp(), lambda theta: theta[1].exp()),
    )
    theta = torch.full((2,), -3.0, dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(x.shape[1], dtype=torch.float64)
    optimiser, errors, by = torch.optim.Adam([theta], lr=0.2), [], ProximalGradient(rtol=1e-8)
    for _ in range(steps):  # each fit starts where the last one ended
        found, last = argmin(lower, theta, phi, by=by, adjoint=Implicit()), theta.detach().exp()
        phi, error = found.detach(), (x_val @ found - y_val).square().mean()
        errors.append(float(error.detach()))
        optimiser.zero_grad()
        error.backward()
        optimiser.step()

    def rival(alpha: float, ratio: float, tol: float) -> Tensor:
        model = Rival(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=tol, max_iter=99_999)
        return torch.tensor(model.fit(x_fit.numpy(), y_fit.numpy()).coef_)

    strengths, ratios = torch.logspace(-3, 0, 10).tolist(), (0.1, 0.3, 0.5, 0.7, 0.9, 1)
    grid = [rival(strength, ratio, 1e-6) for strength in strengths for ratio in ratios]
    best = min(grid, key=lambda found: float((x_val @ found - y_val).square().mean()))
    same = rival(float(last.sum()), float(last[0] / last.sum()), 1e-12)
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    axes.plot(errors)
    grid_error = float((x_val @ best - y_val).square().mean())
    axes.axhline(grid_error, color="gray")
    axes.set(xlabel="upper step", ylabel="validation error", title="grey: the grid's best")
    figure.savefig(out, dpi=120)
    return {
        "validation error, tuned": errors[-1],
        "validation error, grid": grid_error,
        "test error, tuned": float((x_test @ phi - y_test).square().mean()),
        "test error, grid": float((x_test @ best - y_test).square().mean()),
        "coefficients": float((phi != 0).sum()),
        "scikit-learn's distance": float((phi - same).abs().max()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default="elastic_net.png")
    for name, value in main(parser.parse_args().out).items():
        print(f"{name}: {value:.3g}")
