"""The parts of a backbone's profile are those of its pass: as much work, counted another way."""

from __future__ import annotations

from benchmarks.backbone_profile import PASS, parts, profile
from benchmarks.fewshot import Setting, backbone_pass
from tests.metalearn.measure import Convolutions

TINY = Setting(name="tiny", filters=8, side=16, tasks=1, shot=1, query=1)


def test_the_work_of_a_pass_is_what_its_convolutions_do() -> None:
    _, alone = backbone_pass(TINY)
    with Convolutions() as done:
        alone()
    (whole, _) = (part.work for part in parts(TINY) if part.name == PASS)
    assert whole == 2 * sum(done.multiplications.values())


def test_each_part_has_a_time_and_a_rate() -> None:
    found = profile(TINY, rounds=1)
    assert found.keys() == {"float32", "bfloat16"}
    for by_name in found.values():
        assert len(by_name) == 1 + 4 * 3 + 1
        assert all(one["time"] > 0 for one in by_name.values())
        assert all((one["rate"] > 0) != name.startswith("norm") for name, one in by_name.items())
    assert found["float32"][PASS]["time"] == 1
