"""Provenance of a benchmark's numbers: code, versions, machine."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import sys
from pathlib import Path

import torch

SEED = 0  # of weights, images and problems
_CODE = ("../hypergrad", "../metalearn", ".", ":(exclude)results", ":(exclude)baseline.json")


def provenance(device: str | torch.device = "cpu") -> dict[str, object]:
    """To be called before anything is measured, since files may change meanwhile.

    What git says is asked once in a process.
    """
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed_since": _git("status", "--porcelain", "--", *_CODE).splitlines(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": _device(torch.device(device)),
        "threads": torch.get_num_threads(),
        "seed": SEED,
    }


def write(path: Path, found: dict[str, object]) -> None:
    """A result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@functools.cache
def _git(*words: str) -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            sys.exit(
                "--device cuda was given, but torch finds no CUDA device: run this where there is "
                "one, with a build of torch for it, or leave out --device."
            )
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"cpu, {platform.machine()}, {_processor()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return named[0].partition(":")[2].strip() if named else platform.processor()
