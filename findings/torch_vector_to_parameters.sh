#!/usr/bin/env bash
# vector_to_parameters does not fill parameters from a vector: it makes them views of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

print("torch", torch.__version__)
torch.manual_seed(0)
theta = parameters_to_vector(torch.nn.Linear(3, 1).parameters()).detach().clone()
before = theta.clone()

# Two tasks adapt copies of the same upper variables, as MAML's inner loops do.
tasks = [torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)]
for task in tasks:
    vector_to_parameters(theta, task.parameters())
optimiser = torch.optim.SGD(tasks[0].parameters(), lr=1.0)
tasks[0](torch.ones(1, 3)).sum().backward()
optimiser.step()  # the first task alone takes a step

moved = (theta - before).tolist()
other = parameters_to_vector(tasks[1].parameters()) - before
print("theta moved by       ", moved)
print("the second task moved", other.tolist())
print("theta's version counter says", theta._version, "writes")
assert moved == [-1.0] * 4 and torch.equal(theta - before, other.detach())
PY
