#!/usr/bin/env bash
# With class weights, one-hot targets have another loss than the labels that they encode.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn import functional as F

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
print("torch", torch.__version__)
logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 0, 2])
weights = torch.tensor([1.0, 2.0, 5.0])
soft = F.one_hot(labels, 3).double()

hard_loss = F.cross_entropy(logits, labels, weight=weights)
soft_loss = F.cross_entropy(logits, soft, weight=weights)
ratio = float(soft_loss / hard_loss)
print(f"labels {hard_loss:.6f}, one-hot {soft_loss:.6f}, ratio {ratio:.6f}")
print(f"mean weight of the labels {weights[labels].mean():.6f}")
# labels: divided by the sum of their weights; probabilities: divided by their number
assert abs(ratio - float(weights[labels].mean())) < 1e-12 and ratio > 2
assert F.cross_entropy(logits, labels).isclose(F.cross_entropy(logits, soft))
print("without weights they agree")

# Doubling all weights changes one of the two.
doubled = [F.cross_entropy(logits, t, weight=2 * weights).item() for t in (labels, soft)]
print(f"all weights doubled: labels {doubled[0]:.6f}, one-hot {doubled[1]:.6f}")
assert abs(doubled[0] - hard_loss) < 1e-12 and abs(doubled[1] - 2 * soft_loss) < 1e-12
PY
