"""Provenance of a result: code, versions, machine, memory."""

from __future__ import annotations

import platform
import re
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
    """Git commit of this code, and whether the code differs from it; "unknown" outside a checkout.

    A checkout that merely contains the installed package (a virtual environment inside another
    project, say) does not track this file, and does not count. Only the packages that a run is
    computed by are compared, not the files that it writes. Call this before a run: files may change
    while it lasts.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return {"commit": "unknown", "dirty": None}
    head = _git(here.parent, "rev-parse", "HEAD")
    changes = _git(here.parent, "status", "--porcelain", "--", *_CODE)
    return {"commit": head or "unknown", "dirty": None if changes is None else bool(changes)}


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Commits of a resumed run: all of them, and dirty if one of them was."""
    same = before["commit"].endswith(now["commit"])
    commits = before["commit"] if same else f"{before['commit']}, then {now['commit']}"
    known = [state["dirty"] for state in (before, now)]
    return {"commit": commits, "dirty": None if None in known else any(known)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Answer of a git command; None if it fails or git is missing."""
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
    """Name of the device."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {platform.processor() or platform.machine()}"


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Peak memory in bytes, and how it was measured.

    On CUDA the allocator's peak; on the CPU the process's peak resident set, which includes the
    interpreter and the libraries; None where the platform has no such figure.
    """
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "measure": "CUDA allocator"}
    if sys.platform == "win32":
        return {"bytes": None, "measure": "not available on this platform"}
    return {
        "bytes": peak_resident(),
        "measure": "resident set of the process, earlier runs in it included",
    }


def peak_resident() -> int:
    """Bytes of the greatest resident set that this process has had.

    Linux keeps ``ru_maxrss`` over the start of a program, so that a child's is at least that of
    the process which started it (findings/resource_peak_of_a_child.sh); the kernel's own
    high-water mark begins anew.
    """
    status = Path("/proc/self/status")
    mark = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.M) if status.exists() else None
    if mark is not None:
        return int(mark[1]) * 1024
    import resource  # not on every platform

    # macOS counts bytes, other systems kibibytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
