"""The result file of a run: what came out, and what it came out of."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from verification.report.curves import Series
from verification.suite.runner import Outcome

PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "hypothesis", "python-flint")


def provenance() -> dict[str, Any]:
    """Commit, versions and device; no paths and no names of machines."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        # None: no repository; files of no consequence to the code count as changes too
        "changed": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "versions": versions,
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
    }


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def record(outcome: Outcome, series: Sequence[Series], *, seconds: float) -> dict[str, Any]:
    """The outcome as it is written: plain values, infinite ones as text (JSON has none)."""
    rows = []
    for row in outcome.rows:
        entry = asdict(row)
        ratios = sorted(entry.pop("ratios").values())
        entry["ratio"] = row.ratio
        entry["margin"] = math.inf if row.ratio == 0 else 1 / row.ratio
        entry["median_ratio"] = ratios[len(ratios) // 2] if ratios else 0.0
        entry["seed_range"] = [0, row.seeds - 1]
        rows.append(entry)
    plain: dict[str, Any] = _plain(
        {
            "size": outcome.size,
            "passed": not outcome.failures,
            "failures": outcome.failures,
            "seconds": seconds,
            "different_problems": len(outcome.problems),
            "comparisons": sum(row.comparisons for row in outcome.rows),
            "allowance": outcome.allowance,
            "provenance": provenance(),
            "claims": rows,
            "detection": [asdict(cell) | {"caught": cell.caught} for cell in outcome.cells],
            "series": [asdict(curves) for curves in series],
        }
    )
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # float() reads it back
    return value


def write(text: str, path: Path) -> None:
    """Write all of the text or nothing: to a new file, which then takes the old one's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write `record`'s answer."""
    write(json.dumps(report, indent=1, allow_nan=False) + "\n", path)
