"""Pinned environments of the peers, each made in a temporary folder for one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.behaviour.beyond import tables

BENCHMARKS = Path(__file__).parents[1]
TORCH = ("torch==2.13.0", "numpy==2.4.6")
LIMIT = 3600  # seconds for each command


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Packages that pip installs for one library.

    Attributes:
        title: its name on the page.
        packages: installed with what they ask for.
        alone: installed by ``--no-deps``, because what they ask for excludes this torch or Python.
        probe: for a library that is left out, what fails; else its answers are asked.
        beyond: for a library without cases, of which beyond.toml alone asks: the distributions
            whose versions are recorded.
    """

    title: str
    packages: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    probe: str | None = None
    beyond: tuple[str, ...] = ()


PEERS: dict[str, Peer] = {
    "torchopt": Peer(title="TorchOpt", packages=(*TORCH, "torchopt==0.7.3")),
    "betty": Peer(title="Betty", packages=TORCH, alone=("betty-ml==0.2.1",)),
    "higher": Peer(title="higher", packages=TORCH, alone=("higher==0.2.1",)),
    "hypertorch": Peer(
        title="hypertorch",
        packages=TORCH,
        alone=(
            "git+https://github.com/prolearner/hypertorch@6241dfafcf37ddaf14e152ba5e5a3aa7165396d3",
        ),
    ),
    "jaxopt": Peer(title="jaxopt", packages=("jaxopt==0.8.5", "jax==0.10.2", "jaxlib==0.10.2")),
    "optimistix": Peer(
        title="optimistix",
        packages=("optimistix==0.1.0", "jax==0.10.2", "jaxlib==0.10.2", "lineax==0.1.1"),
    ),
    "torchdeq": Peer(title="torchdeq", packages=TORCH, alone=("torchdeq==0.1.0",)),
    "cvxpylayers": Peer(
        title="cvxpylayers",
        packages=(*TORCH, "cvxpy==1.9.3", "diffcp==1.1.9"),
        alone=("cvxpylayers==1.2.0",),
    ),
    "boat": Peer(
        title="BOAT",
        packages=(*TORCH, "matplotlib"),
        alone=("higher==0.2.1", "boat-torch==1.1.1"),
        beyond=("boat-torch", "torch"),
    ),
    "linear_operator": Peer(
        title="linear_operator",
        packages=(*TORCH, "scipy==1.17.1", "jaxtyping", "mpmath"),
        alone=("linear_operator==0.6.1",),
        beyond=("linear_operator", "torch"),
    ),
    "curvlinops": Peer(
        title="curvlinops",
        packages=(*TORCH, "scipy==1.17.1", "einops", "jaxtyping", "mpmath", "tqdm"),
        alone=(
            "linear_operator==0.6.1",
            "backpack-for-pytorch",
            "einconv",
            "unfoldnd",
            "curvlinops-for-pytorch==3.0.1",
        ),
        beyond=("curvlinops-for-pytorch", "torch"),
    ),
    "learn2learn": Peer(
        title="learn2learn",
        packages=TORCH,
        alone=("learn2learn==0.2.0",),
        probe="import learn2learn",
    ),
    "torchmeta": Peer(
        title="torchmeta",
        packages=(*TORCH, "h5py", "ordered-set", "requests", "tqdm", "pillow"),
        alone=("torchmeta==1.8.0", "torchvision==0.28.0"),
        probe="import torchmeta.modules",
    ),
}


def answers(name: str, folder: Path, replaced: str | None = None) -> dict[str, Any]:
    """One peer's record, from an environment made below ``folder``.

    A peer that can't be installed or imported is recorded with the line that says so.

    Args:
        name: a key of `PEERS`.
        folder: where the environment is made, or was.
        replaced: package that pip gets in place of the last package, say a local copy.
    """
    peer = PEERS[name]
    python, view, failed = environment(name, folder, replaced)
    if failed is not None:
        return {"failed": failed}
    commands: list[tuple[str, ...]] = []
    if peer.probe:
        commands.append(("-c", peer.probe))
    elif not peer.beyond:
        commands.append(("-m", f"benchmarks.behaviour.with_{name}"))
    if name in tables():
        commands.append(("-m", "benchmarks.behaviour.beyond", name, *peer.beyond))
    record: dict[str, Any] = {}
    for command in commands:
        output, failed = ran((python, "-W", "ignore", *command), view)
        if failed is not None:
            return {"failed": failed}
        if peer.probe:
            return {"failed": "", "note": "it imports now: write its answers"}
        record = {**json.loads(output.splitlines()[-1]), **record}  # the cases' versions stand
    return record


def environment(
    name: str, folder: Path, replaced: str | None = None
) -> tuple[Path, Path, str | None]:
    """A peer's Python, the folder to run this package in, and why there is none, if so.

    The arguments are those of `answers`.
    """
    view = folder / "view"  # of the benchmarks alone: hypertorch's package is named hypergrad, too
    if not view.exists():
        view.mkdir()
        (view / "benchmarks").symlink_to(BENCHMARKS)
    peer = PEERS[name]
    alone = peer.alone if replaced is None else (*peer.alone[:-1], replaced)
    python, failed = installed(folder / name, peer.packages, alone)
    return python, view, failed


def installed(
    folder: Path, packages: Sequence[str], alone: Sequence[str] = ()
) -> tuple[Path, str | None]:
    """The Python of an environment with packages, made unless it is there; or why it can't be.

    Args:
        folder: where it is made, or was.
        packages: installed with what they ask for.
        alone: installed by ``--no-deps``.
    """
    python = folder / "bin" / "python"
    if python.exists():
        return python, None
    folder.parent.mkdir(parents=True, exist_ok=True)
    install = (python, "-m", "pip", "install", "--quiet", "--no-compile")
    commands: list[tuple[str | Path, ...]] = [
        (sys.executable, "-m", "venv", folder),
        (*install, *packages),
    ]
    if alone:  # betty-ml asks for a Python below 3.11
        commands.append((*install, "--no-deps", "--ignore-requires-python", *alone))
    for command in commands:
        _, failed = ran(command, folder.parent)
        if failed is not None:
            return python, failed
    return python, None


def ran(command: Sequence[str | Path], folder: Path, **variables: str) -> tuple[str, str | None]:
    """A command's output, and the line that says why it failed, if it did."""
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    return ended.stdout, _reason(ended.stderr) if ended.returncode else None


def _reason(stderr: str) -> str:
    """The compiler's or Python's line, if there is one; else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in lines:
        if "fatal error:" in line:
            return line.rpartition("fatal ")[2]
    return lines[-1] if lines else "no output"
