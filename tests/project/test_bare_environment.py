"""``import hypergrad`` works with torch and jaxtyping alone, and loads little that is not used."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
import torch
from hypergrad import CG, GradientDescent, Implicit, argmin

theta = torch.ones(3, requires_grad=True)
phi = argmin(
    lambda theta, phi: (phi - theta).square().sum(),
    theta,
    torch.zeros(3),
    by=GradientDescent(max_steps=100, step_size=0.25),
    adjoint=Implicit(CG()),
)
phi.sum().backward()
assert torch.allclose(theta.grad, torch.ones(3))
for absent in ("numpy", "scipy", "beartype", "hypothesis", "tyro"):
    assert absent not in sys.modules, absent
    try:
        __import__(absent)
    except ImportError:
        continue
    raise AssertionError(f"{absent} can be imported: the environment is not bare")
for unused in (
    *("conditions", "distributed", "solvers", "stochastic", "theory", "checks", "forward"),
    *("objectives.ridge", "objectives.softmax", "objectives.modules", "lower.newton"),
    *("linear.gmres", "linear.lu", "linear.minres", "linear.woodbury"),
):
    assert f"hypergrad.{unused}" not in sys.modules, unused
print("bare")
"""


def closure(*names: str) -> set[str]:
    """The distributions that these need, themselves included, extras left out."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed on another platform only
        found.add(name)
        for requirement in distribution.requires or []:
            if "extra ==" not in requirement:
                match = re.match(r"[A-Za-z0-9._-]+", requirement)
                assert match is not None
                pending.append(match.group())
    return found


def test_import_hypergrad_in_a_bare_environment(tmp_path: Path) -> None:
    # A folder that holds links to torch, jaxtyping and what these two need, and nothing else
    site = tmp_path / "site"
    site.mkdir()
    for name in closure("torch", "jaxtyping"):
        distribution = importlib.metadata.distribution(name)
        tops = {Path(file).parts[0] for file in distribution.files or []} - {".."}
        for top in tops:
            source = Path(str(distribution.locate_file(top)))
            if top != "__pycache__" and source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "hypergrad").symlink_to(ROOT / "hypergrad")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(site)!r}){PROGRAM}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "bare"
