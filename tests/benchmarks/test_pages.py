"""Tables of the documentation are their result files', and what they tell users to call runs."""

from __future__ import annotations

import json
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import double_backward, numerics, peer_page
from benchmarks.behaviour import beside, beyond
from benchmarks.behaviour.asked import CALLS
from benchmarks.behaviour.page import PAGE, SPOT, filled
from benchmarks.conditions import page as conditions
from benchmarks.conditions.programs import Data, exact

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
with CALLS.open("rb") as file:
    ROWS: dict[str, Any] = tomllib.load(file)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def test_the_page_on_other_libraries_is_the_result_file() -> None:
    page, results = PAGE.read_text(encoding="utf-8"), read("behaviour")
    assert filled(page, results) == page
    asked = {name for name, record in results["libraries"].items() if "ways" in record}
    shown = {match["what"] for match in SPOT.finditer(page)}
    assert shown == (asked - {"hypergrad"}) | {"beyond", "cases", "versions"}


def test_the_calls_run_beside_are_the_result_file() -> None:
    page, results = PAGE.read_text(encoding="utf-8"), read("beside")
    assert beside.filled(page, results) == page
    assert {match["what"] for match in beside.SPOT.finditer(page)} == set(beside.tables())
    results["libraries"]["higher"]["rows"][0]["theirs"]["values"][0] *= 2
    assert beside.filled(page, results) != page


@pytest.mark.parametrize("library", beside.tables())
def test_our_calls_return_what_the_other_librarys_did(library: str) -> None:
    # relative; the loosest tolerance of a solver in the table, the default of TorchOpt's
    equal = 1e-5
    rows, recorded = beside.tables()[library]["rows"], read("beside")["libraries"][library]["rows"]
    assert len(rows) == len(recorded) == 10
    for (_, code, *why), now, then in zip(rows, beside.ours(library), recorded, strict=True):
        assert now["raised"] is None, code
        # recorded to six digits
        assert now["values"] == pytest.approx(then["here"]["values"], rel=equal, abs=1e-12), code
        if not then["theirs"]["raised"]:
            difference = beside.apart(then["theirs"]["values"], now["values"])
            assert difference is not None
            assert (difference > equal) is bool(why), (code, difference)


def test_our_answers_beyond_the_cases_are_todays() -> None:
    recorded = read("behaviour")["libraries"]["hypergrad"]["beyond"]
    for library, answers in beyond.ours().items():
        for now, then in zip(answers, recorded[library], strict=True):
            assert (now["raised"], now["warned"]) == (then["raised"], then["warned"]), library
            # errors below 1e-5 are rounding, or what a tolerance of 1e-6 leaves
            assert now["values"] == pytest.approx(then["values"], rel=1e-2, abs=1e-5), library


def test_the_tables_on_peers_are_the_result_file() -> None:
    results = read("peers")
    for path in peer_page.PAGES:
        page = path.read_text(encoding="utf-8")
        assert peer_page.filled(page, results) == page
    results["rows"]["logistic"]["methods"][0]["error"] *= 2
    assert peer_page.filled(page, results) != page


def test_the_tables_on_conditions_are_the_result_file() -> None:
    page, results = conditions.PAGE.read_text(encoding="utf-8"), read("conditions")
    assert conditions.filled(page, results) == page
    shown = {match["what"] for match in conditions.SPOT.finditer(page)}
    assert shown == {"times", "degenerate", "versions"}
    results["problems"][0]["rows"][1]["ratio"] += 1
    assert conditions.filled(page, results) != page


def test_an_exact_programme_proves_its_active_set() -> None:
    one = torch.eye(2, dtype=torch.float64)
    data = Data(
        Q=torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64),
        p=torch.tensor([[1.0, -3.0]], dtype=torch.float64),
        G=-one,
        h=torch.zeros(2, dtype=torch.float64),
        A=one[:0],
        b=one[0, :0],
    )
    # by hand: x_2 is held at zero, x_1 = p_1/2, and |x|^2/2 has the derivative x_1/2 in p_1
    solution, derivative = exact(data, torch.tensor([[0.5, 0.0]], dtype=torch.float64))
    near = 10 * torch.finfo(torch.float64).eps  # a solve of three equations with kappa < 5
    assert solution[0].tolist() == pytest.approx([0.5, 0.0], abs=near)
    assert derivative[0].tolist() == pytest.approx([0.25, 0.0], abs=near)
    for wrong in ([[0.5, 1.0]], [[0.0, 0.0]]):
        with pytest.raises(AssertionError):
            exact(data, torch.tensor(wrong, dtype=torch.float64))


def test_a_number_that_is_not_the_files_is_noticed() -> None:
    page, results = PAGE.read_text(encoding="utf-8"), read("behaviour")
    results["libraries"]["torchopt"]["ways"]["custom_root"]["second"]["values"][0] += 1
    assert filled(page, results) != page


def test_every_row_of_calls_was_executed() -> None:
    libraries = read("behaviour")["libraries"]
    for name, table in ROWS.items():
        assert libraries[name]["calls"] == [theirs for theirs, _ in table["rows"]]


@pytest.mark.parametrize("name", [name for name in ROWS if name != "hypergrad"])
def test_what_the_page_says_to_call_runs(name: str) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few steps of a descent are no minimiser
        exec(ROWS["hypergrad"]["setup"], names)
        for _, here in ROWS[name]["rows"]:
            exec(here, names)


def test_the_answers_of_this_library_are_todays() -> None:
    from benchmarks.behaviour.asked import ask
    from benchmarks.behaviour.with_hypergrad import answers

    recorded = read("behaviour")["libraries"]["hypergrad"]["ways"]["attach"]
    for case, answer in answers().items():
        now: dict[str, Any] = ask(answer)
        for key in ("values", "absent"):
            assert now.get(key) == recorded[case].get(key), case
        for key in ("raised", "warned"):  # of which the words may change
            kinds = [(said.get(key) or {}).get("kind") for said in (now, recorded[case])]
            assert kinds[0] == kinds[1], case


@pytest.mark.parametrize("name", numerics.TABLES)
def test_the_solvers_page_has_the_table(name: str) -> None:
    rows = read("numerics")["tables"][name]
    pages = [ROOT / "docs" / page for page in ("solvers.md", "guides/scikit-learn.md")]
    assert any(numerics.table(rows) in page.read_text(encoding="utf-8") for page in pages)


def test_the_questions_have_the_table_of_second_derivatives() -> None:
    table = double_backward.table(read("double_backward")["operations"])
    assert table in (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ("`layer_norm`", "yes"),
        ("`parametrizations.weight_norm`", "wrong"),
        ("`parametrizations.spectral_norm`", "wrong"),
        ("values of a `sparse_coo_tensor`", "wrong"),
        ("`embedding_bag`", "none"),
        ("`x ** e` at e = 0, as a function of both", "wrong"),
    ],
)
def test_second_derivatives_are_what_the_table_says(row: str, verdict: str) -> None:
    (operation,) = (one for one in double_backward.OPERATIONS if one.name == row)
    assert double_backward.verdict(operation)["verdict"] == verdict
