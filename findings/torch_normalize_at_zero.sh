#!/usr/bin/env bash
# The gradient of F.normalize at a vector of zeros is 1e12, and finite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn import functional as F

torch.manual_seed(0)
print("torch", torch.__version__)

# A cosine classifier whose backbone ends in a ReLU: one image's features are all dead.
prototypes = F.normalize(torch.randn(5, 8), dim=1)
features = torch.relu(torch.randn(4, 8))
features[2] = 0.0
features.requires_grad_()
logits = 10 * F.normalize(features, dim=1) @ prototypes.T
loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
(gradient,) = torch.autograd.grad(loss, features)
norms = gradient.norm(dim=1)
print("loss", loss.item(), "gradient norms of the four images:", norms.tolist())
assert loss.isfinite() and gradient.isfinite().all()
assert norms[2] > 1e11 and norms[[0, 1, 3]].max() < 10

# Clipping by the norm of all of it then leaves nothing of the other three.
clipped = gradient / gradient.norm()
print("after clipping to norm 1:", clipped.norm(dim=1).tolist())
assert clipped.norm(dim=1)[[0, 1, 3]].max() < 1e-10

cosine = torch.zeros(8, requires_grad=True)
(slope,) = torch.autograd.grad(F.cosine_similarity(cosine, prototypes[0], dim=0), cosine)
print("cosine_similarity at zero: gradient norm", slope.norm().item())
assert slope.norm() > 1e6
PY
