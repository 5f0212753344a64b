#!/usr/bin/env bash
# An inner loop inside one autocast block computes with the weights that it started from.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)


def losses(steps=5, **autocast):
    """Losses of plain gradient descent, all of it inside the block."""
    head = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(head.weight)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    seen = []
    with torch.autocast("cpu", dtype=torch.bfloat16, **autocast):
        for _ in range(steps):
            loss = head(torch.ones(1, 2)).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen.append(round(loss.item(), 3))
    return seen, head.weight.detach().flatten().tolist()


stale, wrong = losses()
fresh, right = losses(cache_enabled=False)
print("one block:           losses", stale, "weights", wrong)
print("cache_enabled=False: losses", fresh, "weights", right)
# The 16-bit copy is made once for each block, whatever happens to the weight that it is of.
assert len(set(stale)) == 1
assert fresh[-1] < 0.1 * fresh[0]
assert max(abs(w) for w in wrong) > 0.5 > max(abs(w) for w in right)
PY
