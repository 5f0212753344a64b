"""The comparison with peers: exact answers, equal errors, runs that go on where they stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import peer_rows, peers
from benchmarks.peer_cases import logistic
from benchmarks.peer_entries import PACKAGES, RTOL, Method, Row, peer

SMALL = {
    "tasks": lambda: peer_rows.tasks(3, 4),
    "fixed point": lambda: peer_rows.fixed_point(6),
    "fit": lambda: peer_rows.fit(20, 3, 3),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_installed_method_reaches_the_exact_answer(name: str) -> None:
    row = SMALL[name]()
    packages = set()
    for method in row.methods():
        packages.add(method.package)
        # a residual of RTOL, or a gradient of 1e-6, passed on by condition numbers of at most 100
        assert row.error(method.read(method.run())) <= 100 * RTOL, method.how
    assert "hypergrad" in packages


def test_another_answer_has_an_error() -> None:
    row = SMALL["tasks"]()
    first = next(row.methods())
    assert row.error(first.run() * 1.01) == pytest.approx(0.01, rel=1e-3)


def test_a_loop_of_upper_steps_is_the_oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_rows, "UPPER_STEPS", 3)
    row = peer_rows.loop(20, 3, 2)
    found = [(method.how, row.error(method.run())) for method in row.methods()]
    assert len(found) >= 1
    assert max(error for _, error in found) <= 100 * RTOL, found


def test_the_cases_derivatives_are_those_of_their_values() -> None:
    case = logistic(20, 3, 2)
    phi = case.phi.clone().requires_grad_()
    slope = torch.autograd.grad(case.lower(case.theta, phi), phi, create_graph=True)[0]
    vector = torch.ones_like(phi)
    image = torch.autograd.grad(slope, phi, vector)[0]
    torch.testing.assert_close(image.detach().reshape(-1), case.product(vector.reshape(-1)))
    assert case.stationarity < 1e-13


def test_absent_peers_are_none() -> None:
    assert peer("no_such_package_here") is None
    assert {label: peer(label) is None for label in PACKAGES}["scipy"] is False


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rows measured from now on, each made of one method that takes no time."""
    seen: list[str] = []

    def make(name: str) -> Row:
        seen.append(name)
        method = Method(package="hypergrad", how=name, run=lambda: torch.ones(1))
        return Row(name=name, about={}, error=lambda found: 0.0, methods=lambda: iter([method]))

    monkeypatch.setattr(peers, "ROWS", {name: lambda name=name: make(name) for name in "ab"})
    monkeypatch.setattr(peers, "TURN", 1e-6)
    monkeypatch.setattr(peers, "pin", lambda core: 0)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["peers", *arguments])
    peers.main()


def test_a_stopped_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, out = counted(monkeypatch), tmp_path / "peers.json"
    run(monkeypatch, "--out", str(out), "--rounds", "2", "--rows", "a")
    run(monkeypatch, "--out", str(out), "--rounds", "2", "--rows", "a", "b")
    assert seen == ["a", "b"]
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["rows"]) == ["a", "b"]
    assert found["rows"]["b"]["methods"][0]["ratio"] == 1
    assert "hypergrad: a" in capsys.readouterr().out


def test_rows_of_other_settings_are_not_joined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen, out = counted(monkeypatch), tmp_path / "peers.json"
    run(monkeypatch, "--out", str(out), "--rounds", "2", "--rows", "a")
    with pytest.raises(SystemExit, match="other code, another machine or other settings"):
        run(monkeypatch, "--out", str(out), "--rounds", "3", "--rows", "b")
    assert seen == ["a"]


def test_a_core_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(SystemExit, match="--core 100000 was given"):
        peers.pin(100_000)


def test_times_are_given_over_jaxopts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # seconds of a call, in the order of the methods and whatever is called how often
    taken = iter([[2.0, 2.0], [0.5, 1.0], [4.0, 4.0]])
    monkeypatch.setattr(peers, "interleaved", lambda runs, **_: [next(taken) for _ in runs])
    entries = [
        Method(package=package, how=package, run=lambda: torch.ones(1))
        for package in ("hypergrad", "jaxopt", "torchopt")
    ]
    row = Row(name="one", about={}, error=lambda found: 0.0, methods=lambda: iter(entries))
    found = peers.measure(row, 2)["methods"]
    assert [method["ratio"] for method in found] == [1, 0.375, 2]
    assert [method["over_jaxopt"] for method in found] == [3, 1, 6]
    assert "3.00 (2.50 to 3.50)" in peers.table({"name": "one", "methods": found})
