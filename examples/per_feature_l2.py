"""One L2 weight for every feature of every class: 17,360 hyperparameters, tuned by gradient.

Real data: scikit-learn's 8x8 digits, as pixels and products of two pixels; 600 images to fit, 600
to validate, 597 to test. theta (classes, features) is the logarithm of the L2 weights, phi of the
same shape the linear classifier, and

    g(theta, phi) = cross_entropy(phi; fitted images) + 1/2 sum_cj exp(theta_cj) phi_cj^2,
    f(phi)        = cross_entropy(phi; validation images).

Tuning starts at the best single L2 of a grid search, which is judged by the same f. Printed: the
test loss of both, which neither has seen.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor
from torch.nn.functional import cross_entropy

from hypergrad import CG, LBFGS, Implicit, argmin


def main(out: Path, *, steps: int = 12, seed: int = 0) -> dict[str, float]:
    """Tune by grid search, then by gradient; returns the test losses and accuracies of both."""
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(PolynomialFeatures(2, include_bias=False).fit_transform(images / 16))[order]
    x = x[:, x[:600].std(dim=0) > 0]  # pixels that are always blank say nothing
    x = x - x[:600].mean(dim=0)
    y = torch.tensor(digits)[order]
    (x_fit, x_val, x_test), (y_fit, y_val, y_test) = (a.split([600, 600, 597]) for a in (x, y))

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return cross_entropy(x_fit @ phi.T, y_fit) + (theta.exp() * phi.square()).sum() / 2

    def upper(phi: Tensor) -> Tensor:
        return cross_entropy(x_val @ phi.T, y_val)

    solver = LBFGS(rtol=0.0, atol=1e-6)
    zeros = torch.zeros(10, x.shape[1], dtype=x.dtype)
    grid = torch.arange(-11.0, -4.9, 0.5).tolist()
    fits = [solver.minimise(lower, zeros + log_l2, zeros).phi for log_l2 in grid]
    best = min(range(len(grid)), key=lambda i: float(upper(fits[i])))

    theta, phi = (zeros + grid[best]).requires_grad_(), fits[best]
    optimiser, history = torch.optim.Adam([theta], lr=0.2), []
    for _ in range(steps + 1):  # each fit starts where the last one ended
        phi = argmin(lower, theta, phi.detach(), by=solver, adjoint=Implicit(CG(rtol=1e-2)))
        loss, logits = upper(phi), x_test @ phi.detach().T
        accuracy = float((logits.argmax(dim=1) == y_test).double().mean())
        history.append((loss.item(), cross_entropy(logits, y_test).item(), accuracy))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for column, name in enumerate(("validation", "test")):
        axes.plot([row[column] for row in history], "o-", color=f"C{column}", label=name)
        axes.axhline(history[0][column], color=f"C{column}", ls=":", label="best single L2")
    axes.set(xlabel="hypergradient steps", ylabel="cross entropy (nats per image)", ylim=(0, None))
    axes.set_title(f"digits: {theta.numel():,} L2 weights against the best single one")
    axes.legend()
    figure.savefig(out)
    result = {"weights": float(theta.numel()), "best single log L2": grid[best]}
    result |= {"test loss, single L2": history[0][1], "test loss, tuned": history[-1][1]}
    return result | {"accuracy, single L2": history[0][2], "accuracy, tuned": history[-1][2]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("per_feature_l2.png"))
    for name, value in main(parser.parse_args().out).items():
        print(f"{name:>22}: {value:.6g}")
