"""Settings that can't work are refused, with what to do; the others survive being written down."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hypergrad import GradientDescent, Implicit
from metalearn.config import Protocol, TrainConfig, from_json, to_json
from metalearn.errors import ConfigError

BAD: list[tuple[dict[str, Any], str]] = [
    ({"l2": 0.0}, "l2 was given as 0.0: it must be positive and finite"),
    ({"l2": float("nan")}, "l2 was given as nan"),
    ({"learning_rate": float("inf")}, "learning_rate was given as inf"),
    ({"steps": 0}, "steps was given as 0: it must be at least 1"),
    ({"tasks_per_step": 0}, "tasks_per_step was given as 0"),
    ({"test_episodes": 1}, "test_episodes was given as 1: it must be at least 2"),
    ({"threads": 0}, "threads was given as 0"),
    ({"seed": -1}, "seed was given as -1"),
    ({"lower_steps": 5}, "were given with preset exact, .* or choose preset paper"),
    ({"preset": "paper", "lower_steps": 0}, "lower_steps was given as 0"),
    ({"preset": "paper", "step_size": -0.1}, "step_size was given as -0.1"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**change)


def test_unknown_choices_are_refused() -> None:
    # In a process of its own, since the tests' type checker would refuse them before we can.
    code = """
from metalearn.backbones import Conv4
from metalearn.config import TrainConfig
for change in ({"preset": "fast"}, {"normalisation": "batch"}, {"device": "tpu"}):
    try:
        TrainConfig(**change)
    except ValueError as error:
        print(error)
try:
    Conv4(filters=8, channels=1, size=28, normalisation="layer")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "preset was given as 'fast': it is one of paper, exact.",
        "normalisation was given as 'batch': it is one of transductive, stored, group.",
        "device was given as 'tpu': it is one of auto, cpu, cuda.",
        "normalisation was given as 'layer': it is one of transductive, stored, group.",
    ]


@pytest.mark.parametrize("name", ["way", "shot", "query"])
def test_bad_protocols_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} was given as 0"):
        Protocol(**{name: 0})


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(
            run=Path("here"),
            preset="paper",
            adjoint_steps=7,
            train=Protocol(way=3, shot=2, query=4),
            learning_rate=0.1,
        ),
    ],
    ids=["defaults", "all kinds"],
)
def test_settings_survive_json(config: TrainConfig) -> None:
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_damaged_settings_are_refused() -> None:
    values = to_json(TrainConfig())
    with pytest.raises(ConfigError, match=r"missing \['l2'\], unknown \['l3'\]"):
        from_json({name: v for name, v in values.items() if name != "l2"} | {"l3": 1})
    with pytest.raises(ConfigError, match="settings of an episode"):
        from_json(values | {"test": {"ways": 5}})


def test_paper_preset_is_the_published_one() -> None:
    lower = TrainConfig(preset="paper").lower()
    assert lower.by == GradientDescent(steps=20, step_size=0.05)
    assert isinstance(lower.adjoint, Implicit)
    assert TrainConfig(preset="paper").published() == {"K": 20, "step_size": 0.05, "N": 20}
