"""Where a result comes from: code, versions, machine, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

_PACKAGES: Final = ("torch", "numpy", "pillow", "matplotlib")
# What numbers are computed by: from the checkout's root.
_CODE: Final = (":/hypergrad", ":/metalearn", ":/pyproject.toml", ":(exclude,top)results")


def commit() -> dict[str, Any]:
    """The git commit of this code, and whether code differs from it; "unknown" outside a checkout.

    A checkout that merely contains the installed package (a virtual environment inside another
    project, say) is told by its not tracking this file. What a run writes is no difference: only
    the packages it is computed by are looked at. To be called before a run, not after it, since
    the files may change while it lasts.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return {"commit": "unknown", "dirty": None}
    head = _git(here.parent, "rev-parse", "HEAD")
    changes = _git(here.parent, "status", "--porcelain", "--", *_CODE)
    return {"commit": head or "unknown", "dirty": None if changes is None else bool(changes)}


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The commits of a run that was resumed: all of them, and dirty if one of them was."""
    same = before["commit"].endswith(now["commit"])
    commits = before["commit"] if same else f"{before['commit']}, then {now['commit']}"
    known = [state["dirty"] for state in (before, now)]
    return {"commit": commits, "dirty": None if None in known else any(known)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, None where it (or git itself) has no answer."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in _PACKAGES
    }


def device_name(device: torch.device) -> str:
    """What the computation runs on."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {platform.processor() or platform.machine()}"


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Most bytes held at a time, and how that was measured.

    On CUDA the allocator's peak; on the CPU the process's peak resident set, which includes the
    interpreter and the libraries; None where the platform doesn't tell.
    """
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "measure": "CUDA allocator"}
    if sys.platform == "win32":
        return {"bytes": None, "measure": "not available on this platform"}
    import resource  # not on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "bytes": peak * scale,
        "measure": "resident set of the process, earlier runs in it included",
    }
