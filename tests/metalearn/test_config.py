"""Settings that can't work are refused, with what to do; the others survive being written down."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from hypergrad import GradientDescent, Implicit
from metalearn.cli import main
from metalearn.config.checks import parse_bytes
from metalearn.config.choices import MethodName
from metalearn.config.commands import CompareConfig, MeasureConfig, PrepareConfig
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import _GROUPS, TrainConfig, _settings, from_json, to_json
from metalearn.config.yaml import settings, split_off
from metalearn.errors import ConfigError
from metalearn.methods.heads import LinearHeads
from metalearn.methods.lower import direct, steps_of_cg
from metalearn.methods.overrides import Numbers, describe, numbers
from metalearn.methods.presets import PRESETS


def _kinds(hint: Any) -> set[Any]:
    """The types in a hint, however they are nested."""
    return {hint} | {kind for part in get_args(hint) for kind in _kinds(part)}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"l2": 0.0}, "l2 was given as 0.0: it must be positive and finite"),
    ({"l2": float("nan")}, "l2 was given as nan"),
    ({"learning_rate": float("inf")}, "learning_rate was given as inf"),
    ({"steps": -1}, "steps was given as -1: it must be at least 0"),
    ({"tasks_per_step": 0}, "tasks_per_step was given as 0"),
    ({"test_episodes": 1}, "test_episodes was given as 1: it must be at least 2"),
    ({"threads": 0}, "threads was given as 0"),
    ({"seed": -1}, "seed was given as -1"),
    ({"lower_steps": 5}, "lower_steps 5 was given with LinearHeads, which has no such number"),
    ({"adjoint_steps": 5}, "adjoint_steps 5 was given with LinearHeads, which has no such"),
    ({"method": "protonet", "l2": 0.1}, "l2 0.1 was given with ProtoNet, which has no such"),
    ({"method": "reptile", "step_size": 0.1}, "step_size 0.1 was given with Reptile"),
    ({"method": "memory-reduced", "lower_steps": 0}, "lower_steps was given as 0"),
    ({"method": "memory-reduced", "step_size": -0.1}, "step_size was given as -0.1"),
    ({"drop_rate": 1.0}, "drop_rate was given as 1.0"),
    ({"seed": 2**64}, "seed was given as 18446744073709551616: it must be below"),
    ({"threads": 10**8}, "threads was given as 100000000: it must be at most"),
    ({"test_lower_steps": 5}, "lower_steps 5 was given with LinearHeads"),
    ({"method": "itd-bio", "adjoint": "woodbury"}, "adjoint woodbury was given with a method"),
    ({"adjoint": "woodbury", "adjoint_steps": 5}, "adjoint_steps 5 was given with LinearHeads"),
    ({"streamed": True, "recompute": True}, "streamed and recompute were given"),
    ({"memory_budget": "2GiB", "tasks_per_chunk": 2}, "one decides the other: give one"),
    ({"memory_budget": "2"}, "memory_budget was given as '2': give a positive number and one"),
    ({"memory_budget": "-2GiB"}, "memory_budget was given as '-2GiB'"),
    ({"memory_budget": "0MB"}, "memory_budget was given as '0MB'"),
    ({"memory_budget": "2gib"}, "memory_budget was given as '2gib'"),
    ({"seed": 2**32}, "seed was given as 4294967296: it must be below 2.32"),
    ({"seconds": 0.0}, "seconds was given as 0.0: it must be positive and finite"),
    ({"seconds": 5.0, "schedule": "cosine"}, "falls to 0 at the last of 800 steps"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig().replace(**change)


FLOATS = [
    name
    for group, field, name in _settings()
    if field is not None and float in _kinds(get_type_hints(_GROUPS[group])[field])
]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", FLOATS)
def test_no_setting_takes_what_is_not_finite(name: str, value: float) -> None:
    # a command line turns --rate 1e400 into infinity without a word
    with pytest.raises(ConfigError, match=re.escape(f"{name} was given as {value}")):
        TrainConfig().replace(**{name: value})


@pytest.mark.parametrize(
    "make",
    [
        lambda: CompareConfig(methods=()),
        lambda: CompareConfig(seeds=()),
        lambda: MeasureConfig(methods=()),
        lambda: MeasureConfig(k=()),
        lambda: PrepareConfig(dataset="miniimagenet"),
    ],
)
def test_no_command_takes_an_empty_list(make: Callable[[], object]) -> None:
    # an option without a value gives an empty tuple
    with pytest.raises(ConfigError, match="give"):
        make()


def test_unknown_choices_are_refused() -> None:
    # In a process of its own, since the tests' type checker would refuse them before we can.
    code = """
from metalearn.backbones import Conv4
from metalearn.config.commands import PrepareConfig
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
for change in ({"method": "fast"}, {"normalisation": "batch"}, {"device": "tpu"}):
    try:
        TrainConfig().replace(**change)
    except ValueError as error:
        print(error)
try:
    Conv4(filters=8, channels=1, size=28, normalisation="layer")
except ValueError as error:
    print(error)
for given in ({"source": "pictures"}, {"source": ("pictures",)}, {"root": "here"}):
    try:
        PrepareConfig(dataset="folders", **given)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"method was given as 'fast': it is one of {', '.join(PRESETS)}.",
        "normalisation was given as 'batch': it is one of transductive, stored, group.",
        "device was given as 'tpu': it is one of auto, cpu, cuda.",
        "normalisation was given as 'layer': it is one of transductive, stored, group.",
        *(
            f"source was given as {given!r}: give a tuple of pathlib.Path, such as "
            "(Path('PICTURES'),)."
            for given in ("pictures", ("pictures",))
        ),
        "root was given as 'here': give a pathlib.Path.",
    ]


def test_paths_may_be_text_in_replace() -> None:
    found = TrainConfig().replace(run="runs/mine", data_root="data", pretrained=Path("w.pt"))
    assert (found.run.folder, found.data.root) == (Path("runs/mine"), Path("data"))
    assert found.backbone.pretrained == "w.pt"


@pytest.mark.parametrize("name", ["way", "shot", "query"])
def test_bad_protocols_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} was given as 0"):
        EpisodeShape(**{name: 0})


def test_a_run_from_before_a_setting_had_what_was_done_then() -> None:
    older = to_json(TrainConfig())
    del older["seconds"]
    assert from_json(older) == TrainConfig().replace(seconds=None)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig().replace(
            run=Path("here"),
            method="memory-reduced",
            adjoint_steps=7,
            train=EpisodeShape(way=3, shot=2, query=4),
            learning_rate=0.1,
        ),
    ],
    ids=["defaults", "all kinds"],
)
def test_settings_survive_json(config: TrainConfig) -> None:
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_damaged_settings_are_refused() -> None:
    values = to_json(TrainConfig())
    with pytest.raises(ConfigError, match=r"missing fields \['l2'\] and unknown ones \['l3'\]"):
        from_json({name: v for name, v in values.items() if name != "l2"} | {"l3": 1})
    with pytest.raises(ConfigError, match=r"settings.test has missing fields .* \['ways'\]"):
        from_json(values | {"test": {"ways": 5}})
    with pytest.raises(ConfigError, match="l2 was given as -1.0: it must be positive"):
        from_json(values | {"l2": -1})
    with pytest.raises(ConfigError, match="the settings is .*: an object was expected"):
        from_json([])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("filters", 8.0, "filters is 8.0: int was expected"),
        ("filters", True, "filters is True: int was expected"),
        ("l2", "0.01", "l2 is '0.01': float was expected"),
        ("method", 3, "method is 3: one of memory-reduced, memory-reduced-exact"),
        ("method", "fast", "method is 'fast': one of memory-reduced, "),
        ("lower_steps", "3", "lower_steps is '3': int was expected"),
        ("run", 3, "run is 3: Path was expected"),
        ("test", None, "test is None: an object was expected"),
    ],
)
def test_settings_of_another_type_are_refused(name: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        from_json(to_json(TrainConfig()) | {name: value})


def test_paper_preset_is_the_published_one() -> None:
    config = TrainConfig().replace(method="memory-reduced")
    subject = config.preset().method
    assert isinstance(subject, LinearHeads)
    assert subject.lower.by == GradientDescent(max_steps=20, step_size=0.05)
    assert isinstance(subject.lower.adjoint, Implicit)
    assert numbers(subject) == Numbers(K=20, step_size=0.05, N=20, test_K=20, test_step_size=0.05)
    assert config.preset().learning_rate == 1e-3


def test_every_preset_can_be_chosen() -> None:
    assert get_args(MethodName) == tuple(PRESETS)
    for name in get_args(MethodName):
        preset = TrainConfig().replace(method=name).preset()
        assert preset == PRESETS[name]
        assert "0x" not in describe(preset.method)


def test_given_numbers_replace_the_presets_and_are_named() -> None:
    config = TrainConfig().replace(
        method="memory-reduced", lower_steps=7, step_size=0.1, adjoint_steps=3, l2=0.5
    )
    assert numbers(config.preset().method) == Numbers(
        K=7, step_size=0.1, N=3, test_K=7, test_step_size=0.1
    )
    assert "l2=0.5" in describe(config.preset().method)
    given = "Given: lower_steps = 7, step_size = 0.1, adjoint_steps = 3, l2 = 0.5."
    assert config.preset().departures.endswith(given)
    assert config.preset().variant == "best effort"
    # A step size is that of testing, too; steps of testing have their own setting.
    unrolled = TrainConfig().replace(method="maml", lower_steps=2, step_size=0.3).preset()
    assert numbers(unrolled.method) == Numbers(K=2, step_size=0.3, test_K=10, test_step_size=0.3)
    tested = TrainConfig().replace(method="maml", test_lower_steps=0).preset()
    assert numbers(tested.method).test_K == 0
    reptile = TrainConfig().replace(method="reptile", lower_steps=2).preset()
    assert numbers(reptile.method) == Numbers(K=2, test_K=88)


def test_another_schedule_is_a_departure() -> None:
    assert TrainConfig().replace(method="maml-omniglot").preset().variant == "as published"
    assert TrainConfig().replace(method="maml-omniglot").preset().schedule == "constant"
    other = TrainConfig().replace(method="maml-omniglot", schedule="cosine").preset()
    assert (other.variant, other.departures) == ("best effort", "Given: schedule = cosine.")


def test_a_file_gives_settings_and_the_command_line_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("method: memory-reduced\nlower_steps: 7\ntrain: {way: 3}\nsteps: 4\n")
    assert settings(path) == TrainConfig().replace(
        method="memory-reduced", lower_steps=7, train=EpisodeShape(way=3, shot=1, query=2), steps=4
    )
    small = ["--filters=4", "--adjoint-steps=1", "--test.way=2", "--test.query=1", "--threads=1"]
    main(["train", "--config", str(path), "--steps=9", "--dry-run", *small])
    said = capsys.readouterr().out
    assert "9 upper steps of 4 tasks, 3-way 1-shot, 2 queries per class: 36 images a step" in said
    assert "method: memory-reduced (best effort)" in said
    assert "GradientDescent(max_steps=7" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps", "should map settings to values"),
        (b"stepz: 3", r"unknown settings \['stepz'\]"),
        (b"train: {ways: 3}", r"settings.yaml, train names unknown settings \['ways'\]"),
        (b"steps: 1.5", "steps is 1.5: int was expected"),
        (b"steps: [", "can't be read"),
        (b"\xff\xfe\xff", "can't be read"),
        (b"!!python/object/apply:os.getcwd []", "can't be read"),
    ],
)
def test_files_that_give_no_settings_are_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        settings(path)


def test_a_file_is_for_training() -> None:
    for command in ("train", "compare", "measure"):
        assert split_off([command, "--config", "a"]) == ([command], Path("a"))
    with pytest.raises(ConfigError, match="--config is for train, compare, measure"):
        split_off(["table", "--config", "a"])


@pytest.mark.parametrize("arguments", [["--config"], ["--config=a", "--config", "b"]])
def test_a_file_is_given_once(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="give it once, with a file"):
        split_off(["train", *arguments])


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2GiB", 2**31), ("1.5 KiB", 1536), ("500MB", 500_000_000), ("7B", 7)],
)
def test_amounts_are_read(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


def test_the_adjoint_is_a_choice() -> None:
    found = TrainConfig().replace(adjoint="woodbury").preset().method
    assert isinstance(found, LinearHeads)
    assert found.lower.adjoint == direct()
    found = TrainConfig().replace(adjoint="cg", adjoint_steps=3).preset().method
    assert isinstance(found, LinearHeads)
    assert found.lower.adjoint == steps_of_cg(3)
