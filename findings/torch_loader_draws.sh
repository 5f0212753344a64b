#!/usr/bin/env bash
# Looking through a data loader that does not shuffle moves torch's random numbers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.utils.data import DataLoader, TensorDataset

print("torch", torch.__version__)
validation = DataLoader(TensorDataset(torch.arange(6.0)), batch_size=3)  # no shuffling, no workers


def training(*, validates):
    """Dropout masks of three steps, with or without a look at the validation set after each."""
    torch.manual_seed(0)
    masks = []
    for _ in range(3):
        masks.append(torch.nn.functional.dropout(torch.ones(12)).bool().int().tolist())
        if validates:
            list(validation)
    return masks


alone, watched = training(validates=False), training(validates=True)
for step, (one, other) in enumerate(zip(alone, watched, strict=True)):
    print(f"step {step}: alone {one}, with validation {other}")
assert alone[0] == watched[0] and alone[1] != watched[1]

own = DataLoader(validation.dataset, batch_size=3, generator=torch.Generator())
validation = own
assert training(validates=True) == alone
print("with a generator of its own the loader leaves them alone")
PY
