"""Hypothesis settings: `ci` repeats itself exactly, `thorough` draws twenty times as many anew."""

from hypothesis import HealthCheck, settings

CI_EXAMPLES = 30
THOROUGH = 20  # times as many


def register() -> None:
    """Register the profiles `ci` and `thorough`; nothing is loaded."""
    # Drawing an instance includes factorisations: slow beside integers, by design.
    common = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("ci", common, derandomize=True, max_examples=CI_EXAMPLES)
    settings.register_profile("thorough", common, max_examples=THOROUGH * CI_EXAMPLES)


def examples(ci: int) -> int:
    """Number of examples for a test that needs `ci` of them: twenty times that in `thorough`."""
    return round(ci * settings().max_examples / CI_EXAMPLES)
