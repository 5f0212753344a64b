#!/usr/bin/env bash
# Changing a deep copy of a parametrised module breaks the module that was copied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import copy

import torch
from torch.nn.utils import parametrize

print("torch", torch.__version__)


class Positive(torch.nn.Module):
    """Exponential, so that what is learnt has no sign."""

    def forward(self, x):
        return x.exp()


def fails(module):
    """The error of a forward pass, if there is one."""
    try:
        module(torch.ones(1, 2))
    except (AttributeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


torch.manual_seed(0)
original = torch.nn.Linear(2, 1)
parametrize.register_parametrization(original, "weight", Positive())
task = copy.deepcopy(original)
print("one class for both:", type(task) is type(original), type(task).__name__)
assert fails(original) is None

parametrize.register_parametrization(task, "bias", Positive())  # on the copy
print("after parametrising the copy's bias, the original:", fails(original))
assert fails(task) is None and fails(original).startswith("KeyError")

original = torch.nn.Linear(2, 1)
parametrize.register_parametrization(original, "weight", Positive())
frozen = copy.deepcopy(original)
parametrize.remove_parametrizations(frozen, "weight")  # on the copy
print("after making the copy plain again, the original:  ", fails(original))
assert fails(frozen) is None and fails(original).startswith("AttributeError")
PY
