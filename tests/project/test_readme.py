"""The README's programs run as they stand, warnings being errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

TEXT = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(PROGRAMS)))
def test_program_runs_and_prints_a_finite_hypergradient(
    index: int, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(PROGRAMS[index], f"README.md, program {index}", "exec"), names)
    gradient = names["log_l2"].grad  # type: ignore[attr-defined]
    assert gradient.isfinite().all()
    assert (gradient != 0).all()
    assert "tensor(" in capsys.readouterr().out


def test_there_are_two_programs() -> None:
    assert len(PROGRAMS) == 2
