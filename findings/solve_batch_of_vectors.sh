#!/usr/bin/env bash
# torch and NumPy read solve(A, b) differently where a batch has as many systems as unknowns.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import torch

print("torch", torch.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)


def residuals(tasks, n):
    """Worst |A_t x_t - b_t| of each library for one right-hand side b_t a task, or its error."""
    hessians, sides = rng.normal(size=(tasks, n, n)), rng.normal(size=(tasks, n))
    solvers = {
        "torch": lambda: torch.linalg.solve(torch.tensor(hessians), torch.tensor(sides)).numpy(),
        "numpy": lambda: np.linalg.solve(hessians, sides),
    }
    found = {}
    for name, solve in solvers.items():
        try:
            answer = solve()
        except ValueError as error:
            found[name] = f"{type(error).__name__}: {str(error)[:40]}..."
            continue
        found[name] = f"shape {answer.shape}"
        if answer.shape == sides.shape:
            product = np.einsum("tij,tj->ti", hessians, answer)
            found[name] += f", worst residual {np.abs(product - sides).max():.0e}"
    return found


four, five = residuals(4, 5), residuals(5, 5)
print("4 tasks of 5 unknowns:", four)
print("5 tasks of 5 unknowns:", five)
assert "(4, 5)" in four["torch"] and four["numpy"].startswith("ValueError")
# The fifth task makes an error into an answer: every task is solved for all right-hand sides.
assert "(5, 5), worst" in five["torch"] and "(5, 5, 5)" in five["numpy"]
PY
