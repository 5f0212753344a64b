"""Data hyper-cleaning: which of 1000 training labels are wrong, told by 400 clean ones.

Real data: scikit-learn's 8x8 digits; 40 % of the training labels are replaced by another class.
theta (examples,) weighs the training examples, phi (classes, features) is a linear classifier, and

    g(theta, phi) = mean_j sigmoid(theta_j) cross_entropy_j(phi) + l2/2 |phi|^2,
    f(phi)        = cross_entropy(phi; clean validation images).

An example whose weight falls under 1/2, where all start, is called corrupted. Printed: recall and
precision of that, and the accuracy on 397 test images before and after cleaning.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy

from hypergrad import CG, LBFGS, Implicit, argmin


def main(out: Path, *, steps: int = 30, share: float = 0.4, seed: int = 0) -> dict[str, float]:
    """Corrupt a share of the labels, find them; returns recall, precision and accuracies."""
    generator = torch.Generator().manual_seed(seed)
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=generator)
    x = torch.tensor(images / 16 - 0.3)[order]
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    y = torch.tensor(digits)[order]
    (x_train, x_val, x_test), (clean, y_val, y_test) = (a.split([1000, 400, 397]) for a in (x, y))
    corrupted = torch.rand(1000, generator=generator) < share
    wrong = (clean + torch.randint(1, 10, (1000,), generator=generator)) % 10
    labels = torch.where(corrupted, wrong, clean)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        losses = cross_entropy(x_train @ phi.T, labels, reduction="none")
        return (theta.sigmoid() * losses).mean() + 1e-2 / 2 * phi.square().sum()

    theta = torch.zeros(1000, dtype=x.dtype, requires_grad=True)
    phi = torch.zeros(10, x.shape[1], dtype=x.dtype)
    optimiser, accuracies = torch.optim.Adam([theta], lr=0.1), []
    for _ in range(steps + 1):  # each fit starts where the last one ended
        solver, adjoint = LBFGS(rtol=0.0, atol=1e-4), Implicit(CG(rtol=1e-2))
        phi = argmin(lower, theta, phi.detach(), by=solver, adjoint=adjoint)
        accuracies.append(float(((x_test @ phi.T).argmax(dim=1) == y_test).double().mean()))
        optimiser.zero_grad()
        cross_entropy(x_val @ phi.T, y_val).backward()
        optimiser.step()

    weights = theta.detach().sigmoid()
    found = weights < 0.5
    hits = float((found & corrupted).sum())
    recall, precision = hits / float(corrupted.sum()), hits / float(found.sum())
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    groups = [weights[~corrupted].numpy(), weights[corrupted].numpy()]
    axes.hist(groups, bins=30, label=["correct label", "corrupted label"])
    axes.axvline(0.5, color="black", ls=":", label="start, and threshold")
    axes.set(xlabel="weight sigmoid(theta) of a training example", ylabel="number of examples")
    axes.set_title(f"digits: recall {recall:.1%}, precision {precision:.1%}")
    axes.legend()
    figure.savefig(out)
    result = {"corrupted": float(corrupted.sum()), "recall": recall, "precision": precision}
    return result | {"accuracy before": accuracies[0], "accuracy after": accuracies[-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data_cleaning.png"))
    for name, value in main(parser.parse_args().out).items():
        print(f"{name:>16}: {value:.6g}")
