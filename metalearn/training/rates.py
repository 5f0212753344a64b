"""Learning rates of parts of a model: factors by name, of which 0 freezes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from metalearn.config.checks import parse_rate
from metalearn.errors import ConfigError


def freeze(model: nn.Module, rates: Sequence[str]) -> None:
    """Freeze the parameters whose factor is 0; see `grouped`.

    Raises:
        ConfigError: a name fits no parameter, or a rate is given to what is frozen.
    """
    found = _factors(model, rates)
    for text in rates:
        part, factor = parse_rate(text)
        inside = [p for name, p in model.named_parameters() if _lies_in(name, part)]
        if factor > 0 and not any(p.requires_grad for p in inside):
            raise ConfigError(
                f"layer_rates was given {text}, but {part} is frozen (requires_grad=False): leave "
                "it out, or thaw it."
            )
    for name, parameter in model.named_parameters():
        if found[name] == 0:
            parameter.requires_grad_(False)


def grouped(model: nn.Module, rates: Sequence[str]) -> dict[float, list[nn.Parameter]]:
    """Parameters that are not frozen, by the factor of their learning rate.

    Args:
        model: holds the parameters.
        rates: `NAME=FACTOR` each; the longest name that is a parameter's, or a module's that holds
            it, decides. Without one the factor is 1.

    Raises:
        ConfigError: a name fits no parameter.
    """
    factors = _factors(model, rates)
    found: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[factors[name]].append(parameter)
    return dict(found)


def _factors(model: nn.Module, rates: Sequence[str]) -> dict[str, float]:
    found = {name: 1.0 for name, _ in model.named_parameters()}
    for part, factor in sorted(map(parse_rate, rates), key=lambda rate: len(rate[0])):
        inside = [name for name in found if _lies_in(name, part)]
        if not inside:
            raise ConfigError(
                f"layer_rates was given {part}={factor:g}, but no parameter is called so or lies "
                f"in a module called so: there are {', '.join(found)}."
            )
        found |= dict.fromkeys(inside, factor)
    return found


def _lies_in(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")
