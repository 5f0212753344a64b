"""Constants say where they come from, and nonsense is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hypergrad.constants import Constants, Estimated, Proven
from hypergrad.errors import InputError


def constants(**other: Any) -> Constants:
    one = Proven(1.0)
    given: dict[str, Any] = {
        "strong_convexity": one,
        "coupling": one,
        "upper_coupling": one,
        "upper_smoothness": one,
        "hessian_lipschitz": Proven(0.0),
        "coupling_lipschitz": Proven(0.0),
    }
    return Constants(**{**given, **other})


def test_proven_or_estimated_is_part_of_the_type() -> None:
    assert constants().proven
    assert not constants(coupling=Estimated(1.0)).proven
    assert repr(constants(coupling=Estimated(2.0)).coupling) == "Estimated(value=2.0)"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("coupling", Proven(float("nan")), "coupling is .* finite and not negative"),
        ("coupling", Proven(float("inf")), "coupling is .* finite and not negative"),
        ("coupling", Estimated(torch.tensor([1.0, -1.0])), "not negative"),
        ("strong_convexity", Proven(0.0), "need mu > 0. Regularise"),
        ("strong_convexity", Proven(torch.tensor([1.0, 0.0])), "need mu > 0. Regularise"),
        ("smoothness", Proven(0.5), "smoothness is .* below strong_convexity"),
    ],
)
def test_refusals(name: str, value: Proven | Estimated, message: str) -> None:
    with pytest.raises(InputError, match=message):
        constants(**{name: value})


def test_plain_numbers_are_taken_as_they_are() -> None:
    """As float32 they would be 0, infinite, below the same mu, and equal to another mu."""
    constants(strong_convexity=Proven(1e-50))
    constants(smoothness=Proven(1e50))
    mu = Proven(torch.tensor(0.7, dtype=torch.float64))
    constants(strong_convexity=mu, smoothness=Proven(0.7))
    with pytest.raises(InputError, match="smoothness is .* below strong_convexity"):
        constants(strong_convexity=Proven(0.1 + 1e-12), smoothness=Proven(0.1))
    single = torch.tensor([0.0], dtype=torch.float32)
    with pytest.raises(InputError, match="smoothness is .* below strong_convexity"):
        constants(strong_convexity=Proven(1e-50), smoothness=Proven(single))
