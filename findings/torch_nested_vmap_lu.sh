#!/usr/bin/env bash
# Under two vmaps lu_solve mixes up the systems, and so does the forward derivative of linalg.solve.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.func import jacfwd, jacrev, vmap

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
print("torch", torch.__version__)
matrices = torch.randn(3, 4, 4) + 4 * torch.eye(4)
rights = torch.randn(3, 5, 4, 1)  # five right-hand sides of each of three matrices
factors, pivots = torch.linalg.lu_factor(matrices)


def off(found, expected):
    """Relative error of each of the three systems."""
    return ((found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).tolist()


expected = torch.linalg.solve(matrices[:, None], rights)
solved = vmap(lambda f, p, b: vmap(lambda one: torch.linalg.lu_solve(f, p, one))(b))
errors = off(solved(factors, pivots, rights), expected)
print("lu_solve under two vmaps:", ", ".join(f"{error:.0e}" for error in errors))
assert errors[0] < 1e-12 and min(errors[1:]) > 0.1

cases = {
    "linalg.solve": lambda x: torch.linalg.solve(x.view(2, 2), torch.ones(2)),
    "linalg.slogdet": lambda x: torch.linalg.slogdet(x.view(2, 2))[1],
    "linalg.inv": lambda x: torch.linalg.inv(x.view(2, 2)),
}
points = torch.randn(3, 4)
for name, f in cases.items():
    alone = torch.stack([jacfwd(f)(x) for x in points])
    forward, backward = (off(vmap(jac(f))(points), alone) for jac in (jacfwd, jacrev))
    print(f"vmap(jacfwd({name})):", ", ".join(f"{error:.0e}" for error in forward))
    assert forward[0] < 1e-10 and max(backward) < 1e-10
    assert (max(forward[1:]) > 0.1) == (name != "linalg.inv")
print("The first system is right, the others are not; nothing warns, and jacrev is right.")
PY
