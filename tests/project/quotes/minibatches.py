"""What the guide on many examples quotes from result files."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, median, stdev
from typing import Final

from scipy import stats

from benchmarks.bilevel import methods as bilevel_methods
from benchmarks.bilevel import page as bilevel_page
from tests.project.quotes.quote import Quote, Record

BENCHMARKS: Final = "benchmarks/results"
PAGE: Final = "docs/guides/minibatches.md"


def soba_jax(record: Record) -> Iterator[str]:
    yield (
        f"over {record['steps']} steps in float64 on the same batches no entry of θ, φ and v "
        f"differs by more than {record['largest_difference']:.1e}"
    )


def bilevel(record: Record) -> Iterator[str]:
    yield from bilevel_page.rows(record)
    quadratics, cleaning, selection = (each["methods"] for each in record["problems"].values())

    def ends(methods: Record) -> list[str]:
        batched = [name for name in methods if not name.startswith("Implicit")]
        return sorted(batched, key=lambda name: float(methods[name]["quartiles"][-1][1]))

    assert ends(quadratics) == ["SABA", "SOBA", "AmIGO", "StocBiO", "F2SA"]
    assert ends(cleaning) == ["SABA", "AmIGO", "SOBA", "StocBiO", "F2SA"]
    assert ends(selection) == ["AmIGO", "StocBiO", "SABA", "SOBA", "F2SA"]
    for problem in list(record["problems"].values())[:2]:
        within = {
            name: bilevel_page.within(one, problem["budget"] / 8)
            for name, one in problem["methods"].items()
        }
        middles = {name: one[1] for name, one in within.items() if one is not None}
        assert min(middles, key=lambda name: float(middles[name])) == "SOBA"
    whole = bilevel_page.within(
        cleaning["Implicit, all data"], record["problems"]["data cleaning"]["budget"]
    )
    assert whole is not None
    assert float(whole[1]) < float(cleaning["SOBA"]["quartiles"][-1][1])
    yield f"{selection['SABA']['diverged']} of {record['seeds']} runs of `SABA` diverged"
    others = (selection, quadratics, cleaning)
    assert (
        sum(one["diverged"] for each in others for one in each.values())
        == (selection["SABA"]["diverged"])
    )


def rankings(record: Record, longer: Record) -> Iterator[str]:
    """What the benchmark's paper ranks, in the same runs and in ones that are four times longer."""
    cleaning = record["problems"]["data cleaning"]["methods"]
    wrong = {name: 100 * median(cleaning[name]["test_errors"]) for name in cleaning}
    four = sorted(("SABA", "AmIGO", "SOBA", "StocBiO"), key=lambda name: wrong[name])
    yield f"| {', '.join(f'{name} {wrong[name]:.1f}' for name in four)} |"
    pairs = zip(cleaning["StocBiO"]["test_errors"], cleaning["SOBA"]["test_errors"], strict=True)
    apart = [100 * (one - other) for one, other in pairs]
    half = float(stats.t.ppf(0.975, len(apart) - 1)) * stdev(apart) / len(apart) ** 0.5
    assert mean(apart) < half
    yield f"by {mean(apart):.1f} ± {half:.1f} points"
    assert longer["times"] == 4
    for found, words in ((record, "| "), (longer, "| longer: ")):
        methods = found["problems"]["regularisation selection"]["methods"]
        ends = {name: float(methods[name]["quartiles"][-1][1]) for name in four}
        ordered = sorted(ends, key=lambda name: ends[name])
        yield words + ", ".join(f"{name} {ends[name]:.1e}" for name in ordered)
        assert ordered[-1] == "SOBA"
        for name, largest in {"SABA": 3, "AmIGO": 30, "StocBiO": 30}.items():
            alive = [each for each in methods[name]["tried"] if each["gap"] is not None]
            assert max(each["upper_step_size"] for each in alive) == largest
        assert methods["AmIGO"]["upper_step_size"] == methods["StocBiO"]["upper_step_size"] == 30
    lost = [methods[name]["diverged"] for name in ("SABA", "StocBiO")]
    yield f"{lost[0]} of {longer['seeds']} runs of SABA and {lost[1]} of StocBiO diverged"
    assert ends["SABA"] < 1e-3 < ends["SOBA"]
    budget, size = record["problems"]["data cleaning"]["budget"], 60
    way = bilevel_methods.METHODS["F2SA"]
    assert isinstance(way, bilevel_methods.Stochastic)
    steps = budget // ((way.lower + way.upper) * size)
    penalty = bilevel_methods.weight(steps)
    yield f"{steps} upper steps in data cleaning, after which λ is {penalty:.1f}"


QUOTES: Final = (
    Quote(PAGE, (f"{BENCHMARKS}/soba_jax.json",), soba_jax),
    Quote(PAGE, (f"{BENCHMARKS}/bilevel.json",), bilevel),
    Quote(PAGE, (f"{BENCHMARKS}/bilevel.json", f"{BENCHMARKS}/bilevel_longer.json"), rankings),
)
