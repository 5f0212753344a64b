#!/usr/bin/env bash
# The gradients of f(a + b) for a and for b are one tensor, and writing into one changes the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)


def lower(theta, phi):
    """A shared start plus a task's own offset."""
    return (theta + phi).square().sum()


theta, phi = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
by_theta, by_phi = torch.autograd.grad(lower(theta, phi), (theta, phi))
print("autograd.grad gives one object twice:", by_theta is by_phi)
by_theta.mul_(0.1)  # scale the upper gradient in place, as clipping does
print("scaled", by_theta.tolist(), "not scaled", by_phi.tolist())
assert by_theta is by_phi and by_phi.tolist() == by_theta.tolist()

by_theta, by_phi = torch.func.grad(lower, argnums=(0, 1))(torch.ones(3), torch.zeros(3))
by_theta.zero_()
print("func.grad: zeroed", by_theta.tolist(), "not zeroed", by_phi.tolist())
assert by_phi.tolist() == [0.0] * 3

lower(theta, phi).backward()
theta.grad.zero_()
print("backward keeps them apart:", theta.grad.tolist(), phi.grad.tolist())
assert phi.grad.tolist() == [2.0] * 3
PY
