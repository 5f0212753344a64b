#!/usr/bin/env bash
# An optimiser that loads a snapshot of its state goes on to write into the snapshot.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import copy

import torch

print("torch", torch.__version__)
start = torch.tensor([1.0])
weight = torch.nn.Parameter(start.clone())
optimiser = torch.optim.Adam([weight], lr=0.1)
weight.grad = torch.ones(1)
optimiser.step()
snapshot = copy.deepcopy(optimiser.state_dict())  # a copy of our own, nobody else's


def adapt(task_gradient, state):
    """One task's inner step from the snapshot."""
    with torch.no_grad():
        weight.copy_(start)
    optimiser.load_state_dict(state)
    weight.grad = torch.tensor([task_gradient])
    optimiser.step()
    return weight.item()


first = adapt(5.0, snapshot)
again = adapt(5.0, snapshot)
moment = snapshot["state"][0]["exp_avg"].item()
print(f"the same task from the same snapshot: {first:.6f}, then {again:.6f}")
print(f"its first moment was 0.1000 and is {moment:.4f}")
assert first != again and moment > 1.0

weights = {name: value.clone() for name, value in torch.nn.Linear(2, 1).state_dict().items()}
module = torch.nn.Linear(2, 1)
module.load_state_dict(weights)
kept = weights["weight"].clone()
with torch.no_grad():
    module.weight.add_(1.0)
print("a module's load_state_dict leaves what it was given:", torch.equal(weights["weight"], kept))
assert torch.equal(weights["weight"], kept)
PY
