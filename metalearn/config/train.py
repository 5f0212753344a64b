"""Settings of a training run: all groups, and their form in files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

from tyro.conf import OmitArgPrefixes

from metalearn.config.checks import recorded_weights
from metalearn.config.choices import CAME_LATER
from metalearn.config.groups import (
    NAMES,
    BackboneSettings,
    DataSettings,
    EpisodeShape,
    EvaluationSettings,
    MemorySettings,
    MethodSettings,
    OptimisationSettings,
    RunSettings,
)
from metalearn.config.schema import read_any
from metalearn.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from metalearn.methods.presets import Preset

EVALUATION_SEED: Final = 0
"""Seed of validation and test episodes: the same in all runs, so that these can be paired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Train a few-shot learner, by default on the built-in glyphs, then test it.

    Attributes:
        run: Where the run is kept, and what it runs on.
        data: Images to draw episodes from.
        train: Training episodes.
        test: Validation and test episodes.
        method: Few-shot method, and numbers that replace its own.
        backbone: Network that turns images into features, which is what is trained.
        memory: Ways to take less memory.
        optimisation: Upper level: how the backbone is trained.
        evaluation: Validation while training, and the test at its end.
    """

    run: Annotated[RunSettings, OmitArgPrefixes] = RunSettings()
    data: Annotated[DataSettings, OmitArgPrefixes] = DataSettings()
    train: EpisodeShape = EpisodeShape(way=20, shot=1, query=2)
    test: EpisodeShape = EpisodeShape()
    method: Annotated[MethodSettings, OmitArgPrefixes] = MethodSettings()
    backbone: Annotated[BackboneSettings, OmitArgPrefixes] = BackboneSettings()
    memory: Annotated[MemorySettings, OmitArgPrefixes] = MemorySettings()
    optimisation: Annotated[OptimisationSettings, OmitArgPrefixes] = OptimisationSettings()
    evaluation: Annotated[EvaluationSettings, OmitArgPrefixes] = EvaluationSettings()

    def __post_init__(self) -> None:
        if self.evaluation.hypergradient_error and self.backbone.precision == "float16":
            raise ConfigError(
                "hypergradient_error was given with precision float16, whose gradients only a "
                "scaled loss keeps: use float32 or bfloat16."
            )
        for name, shape in (("train", self.train), ("test", self.test)):
            if shape.varies and self.memory.tasks_per_chunk != 1:
                raise ConfigError(
                    f"the shape of {name} episodes varies ({shape}), so that they pass one at a "
                    "time: give --tasks-per-chunk 1."
                )
        if self.optimisation.seconds is not None and self.preset().schedule == "cosine":
            raise ConfigError(
                f"seconds {self.optimisation.seconds:g} was given with schedule cosine, which "
                f"falls to 0 at the last of {self.optimisation.steps} steps, whenever that is: "
                "give --schedule constant."
            )
        if self.method != MethodSettings(name=self.method.name):
            self.preset()  # raises where the method has no such number

    def replace(self, **settings: Any) -> TrainConfig:
        """The same settings but for these, each by the name of its option: `replace(l2=0.1)`.

        Raises:
            ConfigError: there is no such setting, or it can't work.
        """
        changed: dict[str, Any] = {}
        for group, field, name in _settings():
            if name not in settings:
                continue
            value = settings.pop(name)
            if field is None:
                changed[group] = value
            else:
                changed.setdefault(group, {})[field] = _given_as(name, value)
        if settings:
            known = ", ".join(name for _, _, name in _settings())
            raise ConfigError(f"{', '.join(settings)} was given, but is no setting: {known} are.")
        return dataclasses.replace(
            self,
            **{
                group: dataclasses.replace(getattr(self, group), **value)
                if isinstance(value, dict)
                else value
                for group, value in changed.items()
            },
        )

    def answers(self, asked: TrainConfig) -> bool:
        """True if a run with these recorded settings is the run that `asked` describes.

        A device `auto`, a memory budget and a missing normalisation are recorded as what was chosen
        for them, and a file of weights as its SHA-256.

        Raises:
            ConfigError: the file of weights can't be read.
        """
        recorded = self.memory.tasks_per_chunk
        budget = asked.memory.budget is not None
        device = self.run.device if asked.run.device == "auto" else asked.run.device
        return self == asked.replace(
            run=self.run.folder,
            device=device,
            memory_budget=None,
            tasks_per_chunk=recorded if budget else asked.memory.tasks_per_chunk,
            pretrained=recorded_weights(asked.backbone.pretrained),
            normalisation=asked.preset().normalisation,
        )

    def require_nothing_with_resume(self) -> None:
        """Raise if settings are given beside `resume`, which goes on under the run's own.

        Raises:
            ConfigError: with their names.
        """
        # what is code has to be named again, see `require_confirmed`
        kept = {"resume": self.run.resume, "backbone": self.backbone.name}
        given, usual = to_json(self), to_json(TrainConfig().replace(**kept))
        others = [name for name, value in given.items() if value != usual[name]]
        if others:
            raise ConfigError(
                f"{', '.join(others)} was given with resume, which goes on under the run's own "
                "settings: leave it out, or start a new run."
            )

    def preset(self) -> Preset:
        """The method's preset, with the numbers that are given instead of its own.

        Raises:
            ConfigError: the method has no such number.
        """
        from metalearn.methods.overrides import adjusted
        from metalearn.methods.presets import preset

        chosen, upper = preset(self.method.name), self.optimisation
        numbers = dataclasses.asdict(self.method)
        del numbers["name"]
        return dataclasses.replace(
            chosen,
            method=adjusted(chosen.method, **numbers),
            optimiser=upper.optimiser or chosen.optimiser,
            learning_rate=upper.learning_rate or chosen.learning_rate,
            tasks_per_step=upper.tasks_per_step or chosen.tasks_per_step,
            schedule=upper.schedule or chosen.schedule,
            normalisation=self.backbone.normalisation or chosen.normalisation,
            layer_rates=upper.layer_rates,
            departures=self._departures(chosen),
        )

    def _departures(self, chosen: Preset) -> str:
        """Differences from the source: the preset's, and what was given."""
        own, upper = self.method, self.optimisation
        given = {
            "lower_steps": own.lower_steps,
            "test_lower_steps": own.test_lower_steps,
            "step_size": own.step_size,
            "adjoint": own.adjoint,
            "adjoint_steps": own.adjoint_steps,
            "l2": own.l2,
            "wide_heads": own.wide_heads or None,
            "jitter": self.data.jitter or None,
            "tasks_per_step": upper.tasks_per_step,
            "learning_rate": upper.learning_rate,
            "optimiser": upper.optimiser,
            "schedule": upper.schedule,
            "layer_rates": ", ".join(upper.layer_rates) or None,
        }
        changed = [f"{name} = {value}" for name, value in given.items() if value is not None]
        said = f"Given: {', '.join(changed)}." if changed else ""
        return " ".join(part for part in (chosen.departures, said) if part)

    def place(self) -> torch.device:
        """The device to run on.

        Raises:
            ConfigError: CUDA was asked for and isn't there.
        """
        import torch

        there = torch.cuda.is_available()
        if self.run.device == "cuda" and not there:
            raise ConfigError("device cuda was asked for, but torch sees none: use cpu or auto.")
        return torch.device("cuda" if there and self.run.device != "cpu" else "cpu")


_PATHS: Final = ("run", "resume", "data_root")


def _given_as(name: str, value: Any) -> Any:
    """A path as a `Path`, and that of a file of weights as text, however it was given."""
    if name in _PATHS and isinstance(value, str):
        return Path(value)
    return str(value) if name == "pretrained" and isinstance(value, Path) else value


_GROUPS: Final[dict[str, Any]] = {
    part.name: type(part.default) for part in dataclasses.fields(TrainConfig)
}


@cache
def _settings() -> tuple[tuple[str, str | None, str], ...]:
    """Each setting: its group, its field there (None for episodes' shapes), and its name."""
    found: list[tuple[str, str | None, str]] = []
    for group, kind in _GROUPS.items():
        if kind is EpisodeShape:
            found.append((group, None, group))
            continue
        for field in dataclasses.fields(kind):
            found.append((group, field.name, NAMES.get((group, field.name), field.name)))
    return tuple(found)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON values, without groups; `from_json` reads them back."""
    values: dict[str, Any] = {}
    for group, field, name in _settings():
        part = getattr(config, group)
        values[name] = dataclasses.asdict(part) if field is None else getattr(part, field)
    return values | {name: None if values[name] is None else str(values[name]) for name in _PATHS}


def from_json(values: object) -> TrainConfig:
    """The settings that `to_json` wrote.

    Raises:
        ConfigError: a setting is missing, unknown, of another type or out of range.
    """
    try:
        if not isinstance(values, dict):
            raise ValueError(f"the settings is {values!r}: an object was expected")
        known = CAME_LATER | values
        names = {name for _, _, name in _settings()}
        if known.keys() != names:
            raise ValueError(
                f"the settings has missing fields {sorted(names - known.keys())} and unknown ones "
                f"{sorted(known.keys() - names)}; was it written by another version?"
            )
        parts: dict[str, Any] = {}
        for group, field, name in _settings():
            hints = get_type_hints(_GROUPS[group] if field else TrainConfig)
            value = read_any(hints[field or group], known[name], f"the settings.{name}")
            if field is None:
                parts[group] = value
            else:
                parts.setdefault(group, {})[field] = value
        groups = {n: _GROUPS[n](**v) if isinstance(v, dict) else v for n, v in parts.items()}
        return TrainConfig(**groups)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
