#!/usr/bin/env bash
# A file of safetensors gives tensors back in another order than they were saved in.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6" "safetensors==0.8.0"
"$folder/venv/bin/python" - "$folder/weights.safetensors" <<'PY'
import sys

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parameters_to_vector

print("torch", torch.__version__, "safetensors", safetensors.__version__)
torch.manual_seed(0)
network = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(11)))
state = network.state_dict()
save_file(state, sys.argv[1])
found = load_file(sys.argv[1])
print("saved: ", list(state)[:4], "...", list(state)[-2:])
print("loaded:", list(found)[:6], "...", list(found)[-2:])
before, after = parameters_to_vector(state.values()), parameters_to_vector(found.values())
same = int((before == after).sum())
print(f"as one vector: {same} of {len(before)} entries are where they were")
assert sorted(state) == sorted(found) and all(torch.equal(state[name], found[name]) for name in state)
assert list(state) != list(found)
assert same < len(before) / 4

mixed = {"phi": torch.ones(2), "step": torch.ones(2, dtype=torch.int64), "a": torch.ones(2)}
save_file(mixed, sys.argv[1])
print("of two dtypes:", list(load_file(sys.argv[1])))
assert list(load_file(sys.argv[1])) == ["step", "a", "phi"]
PY
