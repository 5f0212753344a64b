#!/usr/bin/env bash
# torch.func.linearize draws again, for the value, the tangents and every call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import warnings

import torch
from torch.func import jvp, linearize, vjp

warnings.simplefilter("ignore")
print("torch", torch.__version__)
x, direction = torch.ones(10), torch.ones(10)


def f(x):
    """Dropout: linear in x once its mask is drawn."""
    return torch.nn.functional.dropout(x, 0.5)


torch.manual_seed(0)
value, tangents = linearize(f, x)
first, second = tangents(direction), tangents(direction)
print("linearize: value         ", value.int().tolist())
print("           J 1           ", first.int().tolist())
print("           J 1 once more ", second.int().tolist())
assert not torch.equal(first, second)  # not even a function
assert not torch.equal(value, first)  # f is linear: J 1 must be f(1)
difference = (tangents(2 * direction) - 2 * tangents(direction)).abs().max().item()
print("           |J 2 - 2 J 1| ", difference)
assert difference > 0

torch.manual_seed(0)
value, tangent = jvp(f, (x,), (direction,))
print("jvp:       value and J 1 agree:", torch.equal(value, tangent))
value, pull = vjp(f, x)
print("vjp:       J' 1 the same twice:", torch.equal(pull(direction)[0], pull(direction)[0]))
assert torch.equal(value, pull(direction)[0])
PY
