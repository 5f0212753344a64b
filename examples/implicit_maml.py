"""Implicit MAML with a whole network: an initialisation from which few points teach a sine.

A task is a sine of its own amplitude and phase, seen at 10 points, judged at 10 others of [-5, 5].
theta holds the parameters of a network, phi a copy of all of them for each task, and

    g_i(theta, phi_i) = mse(phi_i; support of i) + strength/2 |phi_i - theta|^2,
    f_i(phi_i)        = mse(phi_i; query of i),

batched over tasks. Printed: the query loss on 200 unseen tasks (untrained start adapted; trained
start not adapted, and adapted), and the share of adjoint systems that were solved.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from hypergrad import CG, LBFGS, Certificate, Implicit, argmin
from hypergrad.objectives import Proximal, call, parameters


def sines(tasks: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Support and query set: inputs and targets, ``(tasks, 10, 1)`` each."""
    uniform = torch.rand(tasks, 22, 1, dtype=torch.float64)
    amplitude, phase = 0.5 + 1.5 * uniform[:, :1], torch.pi * uniform[:, 1:2]
    y = amplitude * torch.sin((x := 10 * uniform[:, 2:] - 5) - phase)
    return (x[:, :10], y[:, :10]), (x[:, 10:], y[:, 10:])


def main(out: Path, *, steps: int = 100, strength: float = 1.0, seed: int = 0) -> dict[str, float]:
    """Train for ``steps`` batches of 16 tasks; returns the losses on the unseen tasks."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 1)).double()
    certificates: list[Certificate] = []

    def mse(phi: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return (call(network, phi, x) - y).square().mean(dim=(-2, -1))

    def adapt(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        lower: Proximal[dict[str, Tensor]] = Proximal(lambda phi: mse(phi, x, y), strength)
        theta, start = parameters(network), parameters(network, tasks=(len(x),))
        by, adjoint, watch = LBFGS(atol=1e-2), Implicit(CG(rtol=1e-2)), certificates.append
        return argmin(lower, theta, start, by=by, adjoint=adjoint, watch=watch)

    support, query = sines(200)
    result = {"untrained, adapted": mse(adapt(*support), *query).mean().item()}
    optimiser, losses = torch.optim.Adam(network.parameters(), lr=0.01), []
    for _ in range(steps):
        batch_support, batch_query = sines(16)
        loss = mse(adapt(*batch_support), *batch_query).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    start = parameters(network, tasks=(200,))
    result["trained, not adapted"] = mse(start, *query).mean().item()
    result["trained, adapted"] = mse(adapt(*support), *query).mean().item()
    solved = torch.cat([one.adjoint.converged for one in certificates]).double()
    result["adjoint solved"] = solved.mean().item()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, color="grey", label="training batch, adapted")
    for color, name in enumerate(list(result)[:3]):
        axes.axhline(result[name], color=f"C{color}", ls="--", label=f"unseen tasks: {name}")
    axes.set(xlabel="Adam step", ylabel="query loss (mean square, units of y²)", ylim=(0, None))
    axes.legend()
    figure.savefig(out)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("implicit_maml.png"))
    for name, value in main(parser.parse_args().out).items():
        print(f"{name:>20}: {value:.4g}")
