"""What pages quote from the experiments' results."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean, median
from typing import Final

from tests.project.quotes.quote import Quote, Record, percent, row

PAGE: Final = "docs/experiments.md"
OMNIGLOT: Final = "results/omniglot-20way-1shot"
CIFAR: Final = "results/cifar-fs-5way-5shot"
GLYPHS: Final = "results/glyphs-5way-1shot"
MIB: Final = 2**20
METHODS: Final = {
    "memory-reduced": "memory-reduced, K = N = 20",
    "memory-reduced-exact": "memory-reduced-exact",
    "anil": "ANIL, K = 10",
    "itd-bio": "ITD-BiO, K = 20",
    "r2d2": "R2-D2",
    "protonet": "ProtoNet",
    "maml-learn2learn": "MAML, K = 1 (learn2learn)",
}


def omniglot(result: Record, fewer: Record, seen: Record, metrics: Record) -> Iterator[str]:
    (five,), (training,) = fewer["points"], seen["points"]
    yield (
        f"20-way **{percent(result['accuracy'])} ± {percent(result['interval'])} %** (MAML's "
        "published number: 95.8), and the same weights 5-way "
        f"**{percent(five['accuracy'])} ± {percent(five['interval'])} %**"
    )
    certificate = result["certificate"]
    yield f"All {certificate['tasks']:,} adjoint systems met the tolerance of 3e-5"
    assert certificate["failed"] == 0
    assert certificate["residual"]["training"]["worst"] <= 3e-5
    gap = 100 * (training["accuracy"] - result["accuracy"])
    yield (
        f"the same weights have {percent(training['accuracy'])} ± {percent(training['interval'])} "
        f"% in 20 ways, {gap:.1f} points more than on the test's. At that gap 97.0 % in testing "
        f"takes {97 + gap:.1f} % in training."
    )
    at = {row["step"]: row["validation"] for row in metrics}
    yield f"by {100 * (at[8000] - at[6000]):.2f} points over the last 2,000 steps"


def omniglot_search(found: Record) -> Iterator[str]:
    for settings, cells in found.items():
        yield row(settings, *cells.values())
    reached = (cells["validation"].split(" ± ") for cells in found.values())
    (plain, _), (wide, _), (higher, half), (moved, _), (highest, _) = (
        (float(accuracy), float(interval)) for accuracy, interval in reached
    )
    yield f"faster than four of 20, by {wide - plain:.1f} points"
    yield f"A rate of 0.008 is worth {higher - wide:.1f} points more"
    yield f"(`jitter`) costs {higher - moved:.1f} points so early"
    assert max(higher - moved, abs(higher - highest)) < half  # "less than either", "the same"
    for cells in found.values():  # "All adjoint systems met their tolerance"
        assert cells["adjoint systems above tolerance"].startswith("0 of ")


def drawings(found: Record) -> Iterator[str]:
    for settings, cells in found.items():
        yield row(settings, *cells.values())
    grey, black_and_white = (float(c["validation"].split(" ")[0]) for c in found.values())
    yield f"Grey is {grey - black_and_white:.1f} points better from this seed"
    widths = [2 * float(cells["validation"].split(" ")[2]) for cells in found.values()]
    assert max(widths) / 2 < grey - black_and_white < 0.6 * min(widths)  # "little more than half"


def cifar_fs(accuracy: Record, error: Record) -> Iterator[str]:
    (seconds,) = (key for key in accuracy["anil"] if key.startswith("seconds to "))
    assert seconds == "seconds to 28.6 %"
    for method, name in METHODS.items():
        cells = accuracy[method]
        if method in error:
            apart = float(error[method]["median"])
            shown = f"{apart:.5f}" if apart < 0.01 else f"{apart:.2g}"
            error_text = f"{shown}, cosine {float(error[method]['cosine']):.2f}"
        else:
            error_text = "not defined"
        yield row(
            name,
            cells["accuracy"].split(" ")[0],
            cells["minus memory-reduced"].replace("–", ""),
            cells["step (MiB)"],
            error_text,
            cells[seconds],
        )
    points = cifar_points(accuracy)
    yield f"which is {points['itd-bio']:.1f} points below ITD-BiO"
    yield f"and {points['anil']:.1f} below ANIL"
    yield f"R2-D2 is {points['r2d2']:.1f} above it, and ProtoNet {-points['protonet']:.1f} below"
    worth = f"{points['memory-reduced-exact']:.1f} points"
    yield f"Yes: {worth}, by the same method at the same rate"
    yield f"On CIFAR-FS 800 steps of it were worth {worth}"
    yield f"800 steps with both levels solved were worth {worth} above"
    lower, adjoint = (float(error["memory-reduced"][level]) for level in ("lower", "adjoint"))
    yield f"the certificates say {lower:.1f} and {adjoint:.1f}"


def cifar_points(accuracy: Record) -> dict[str, float]:
    """Points above memory-reduced."""
    names = [name for name in METHODS if name != "memory-reduced"]
    return {name: float(accuracy[name]["minus memory-reduced"].split(" ")[0]) for name in names}


def rates(found: Record) -> Iterator[str]:
    apart = [
        float(found["memory-reduced-exact"][rate]) - float(found["memory-reduced"][rate])
        for rate in ("0.002", "0.008")
    ]
    yield f"at 0.002 the two forms of memory-reduced are {apart[0]:.1f} points of validation apart"
    yield f"at 0.008 {apart[1]:.1f} (`rates.md`)"
    best = {name: cells["best"] for name, cells in found.items()}
    high = [name for name, rate in best.items() if rate == "0.008"]
    assert high == ["memory-reduced", "memory-reduced-exact", "itd-bio", "anil"]
    assert {rate for name, rate in best.items() if name not in high} == {"0.002"}
    yield "0.008 for both forms of memory-reduced, ITD-BiO and ANIL, 0.002 for the others"


def memory(record: Record) -> Iterator[str]:
    peaks = record["peaks"]
    ours, itd = (peaks[name]["20"] / MIB for name in ("memory-reduced", "itd-bio"))
    yield f"({ours:.1f} MiB against {itd:.1f})"
    maml = {int(k): peak / MIB for k, peak in peaks["maml-learn2learn"].items()}
    more = (maml[20] - maml[3]) / 17
    yield f"({maml[3]:.0f} MiB at K = 3, and {more:.0f} more for each further step)"
    yield f"at K = 1 the saving is {100 * (1 - ours / maml[1]):.0f} %"


def published(record: Record) -> Iterator[str]:
    (rows,) = (
        {entry["name"]: entry for entry in setting["rows"]}
        for setting in record["settings"]
        if setting["name"] == "mini-conv4-32"
    )
    ours, *others = (
        rows[f"{name}, as published"] for name in ("Algorithm 1", "ITD-BiO", "ANIL", "MAML")
    )
    bytes_ = [f"{100 * ours['bytes'] / other['bytes']:.0f}" for other in others]
    assert bytes_[0] == bytes_[1]
    yield f"({bytes_[0]} % of ITD-BiO's and ANIL's bytes, {bytes_[2]} % of MAML's"
    times = [other["time"]["median"] for other in others]
    shares = [f"{100 * ours['time']['median'] / time:.0f}" for time in times]
    yield (
        f"({shares[0]} % of the time of a step of ITD-BiO, {shares[1]} % of ANIL's and "
        f"{shares[2]} % of MAML's: {ours['time']['median']:.1f} passes of the backbone against "
        f"{times[0]:.1f}, {times[1]:.1f} and {times[2]:.1f})"
    )
    best = [
        rows[name]["time"]["median"]
        for name in ("Algorithm 1, this library", "ITD-BiO, best effort", "ANIL, best effort")
    ]
    yield f"({best[0]:.2f} passes against {best[1]:.2f} and {best[2]:.2f})"


def cells_of(record: Record) -> dict[tuple[int, int], list[Record]]:
    """The runs of a study by K and N."""
    grid: dict[tuple[int, int], list[Record]] = {}
    for run in record["runs"]:
        grid.setdefault((run["K"], run["N"]), []).append(run)
    return grid


def study_rows(grid: dict[tuple[int, int], list[Record]]) -> Iterator[str]:
    """The rows of a study's table."""
    for cell, own in grid.items():
        shown = [
            f"{median(run[name] for run in own):{form}}"
            for name, form in (
                ("error", ".2g"),
                ("cosine", ".2f"),
                ("stationarity", ".2g"),
                ("residual", ".2g"),
            )
        ]
        seeds = ", ".join(percent(run["accuracy"]) for run in own)
        yield row(
            *map(str, cell), *shown, f"{100 * fmean(run['accuracy'] for run in own):.2f}", seeds
        )


def trend(line: Record, interval: str) -> Iterator[str]:
    """Sentences on the line through the cells, whose interval holds 0."""
    yield (
        f"falls by {-100 * line['slope']:.1f} points a decade of error, {interval}, ± "
        f"{100 * line['half']:.1f} over the {line['cells']} cells"
    )
    yield f"the line explains {percent(line['explained'], 0)} % of the cells' variance"
    assert abs(line["slope"]) < line["half"]


def residual(record: Record) -> Iterator[str]:
    grid = cells_of(record)
    yield from study_rows(grid)
    yield from trend(record["line"], "but the interval")
    error = {cell: median(run["error"] for run in own) for cell, own in grid.items()}
    mean = {cell: 100 * fmean(run["accuracy"] for run in own) for cell, own in grid.items()}
    nearest = min(error, key=lambda cell: error[cell])
    assert nearest == max(mean, key=lambda cell: mean[cell]) == (100, 20)
    apart = [
        100 * (solved["accuracy"] - once["accuracy"])
        for solved, once in zip(grid[100, 20], grid[100, 1], strict=True)
    ]
    yield f"is the most accurate, {mean[nearest]:.1f} %"
    yield (
        f"is worth {fmean(apart):.1f} points, and from each of the three seeds more than "
        f"{int(min(apart))}."
    )
    first, second, third = (20, 1), (100, 1), (5, 20)
    yield (
        f"K = 20 with N = 1 is {error[first]:.2f} away and reaches {mean[first]:.1f} %, K = 100 "
        f"with N = 1 is {error[second]:.2f} away and reaches {mean[second]:.1f} %"
    )
    assert error[third] > 1
    yield f"K = 5 with N = 20 has it, and {mean[third]:.1f} %"
    for systems in (1, 20):
        same = [accuracy for cell, accuracy in mean.items() if cell[1] == systems]
        assert min(same) == mean[1, systems]
    spreads = [
        100 * (max(r["accuracy"] for r in own) - min(r["accuracy"] for r in own))
        for own in grid.values()
    ]
    yield f"Seeds of one cell are up to {max(spreads):.0f} points apart"


def residual_cifar_fs(record: Record) -> Iterator[str]:
    grid = cells_of(record)
    yield from study_rows(grid)
    yield from trend(record["line"], "and its interval")
    error = {cell: median(run["error"] for run in own) for cell, own in grid.items()}
    reached = {cell: [100 * run["accuracy"] for run in own] for cell, own in grid.items()}
    mean = {cell: fmean(own) for cell, own in reached.items()}
    nearest = min(error, key=lambda cell: error[cell])
    yield f"the nearest, K = {nearest[0]} with N = {nearest[1]}, is {error[nearest]:.2f} away"
    apart = {cell: max(own) - min(own) for cell, own in reached.items()}
    solved, once = (max(apart[cell] for cell in apart if cell[1] == n) for n in (20, 1))
    yield f"are at most {solved:.1f} points apart, with N = 1 up to {once:.1f}"
    (low, lower) = sorted(reached[5, 1])[:2]
    assert max(low, lower) < min(min(own) for cell, own in reached.items() if cell != (5, 1))
    yield f"came to {low:.1f} % and {lower:.1f} %"
    rising = [mean[K, 20] for K in sorted(K for K, N in grid if N == 20)]
    assert rising == sorted(rising)
    yield f"rises with K, from {rising[0]:.1f} % to {rising[-1]:.1f} %"
    furthest = max(error, key=lambda cell: error[cell])
    assert furthest == (20, 20)
    yield f"reaches {mean[furthest]:.1f} %"
    yield f"are {rising[-1] - rising[0]:.1f} points apart"


def batches(record: Record) -> Iterator[str]:
    runs = record["runs"]
    by_size: dict[int, list[Record]] = {}
    for run in runs:
        by_size.setdefault(run["tasks"], []).append(run)
    mean = {size: 100 * fmean(run["accuracy"] for run in own) for size, own in by_size.items()}
    variances, ratios = [], []
    for size, own in by_size.items():
        law = fmean(size * run["means"][str(size)] / run["variance"] for run in runs)
        assert abs(law - 1) < 0.025  # "to 2 %"
        variances.append(fmean(run["variance"] for run in own))
        noise = variances[-1] / record["tasks_measured"]  # of the mean itself
        ratios.append(variances[-1] / (fmean(run["gradient"] for run in own) - noise))
        seeds = ", ".join(percent(run["accuracy"]) for run in own)
        cells = [f"{mean[size]:.2f}", seeds, f"{variances[-1]:.3g}", f"{ratios[-1]:.3g}"]
        yield row(str(size), str(own[0]["steps"]), *cells, f"{law:.2f}")
    for few, many in pairwise(by_size.values()):  # "from each seed"
        for first, second in zip(few, many, strict=True):
            assert first["accuracy"] > second["accuracy"]
    yield (
        f"σ_h² is {min(variances):.0f} to {max(variances):.0f} here, {min(ratios):.0f} to "
        f"{max(ratios):.0f} times the squared length"
    )
    yield f"{mean[1]:.1f} % with b = 1, {mean[8]:.1f} % with b = 8"
    yield f"{record['tasks_in_all']} tasks in all"


def cifar_in_short(accuracy: Record, error: Record) -> Iterator[str]:
    paper, exact = (error[name]["median"] for name in ("memory-reduced", "memory-reduced-exact"))
    yield f"(orange) it is {float(paper):.1f} times as long"
    yield f"(green) its median is {float(exact):.5f}."
    points = cifar_points(accuracy)["memory-reduced-exact"]
    yield f"Solving both levels is worth {points:.1f} points of accuracy there"


def glyphs(*records: Record) -> Iterator[str]:
    exact, paper = records[:3], records[3:]
    residual = exact[0]["certificate"]["residual"]["training"]
    yield (
        f"certificate: all {exact[0]['certificate']['tasks']} tasks solved to tolerance; median "
        f"relative residual {residual['median']:.1e}, worst {residual['worst']:.1e} ("
    )
    yield f"test accuracy {percent(exact[0]['accuracy'])} ± {percent(exact[0]['interval'])} % ("
    others = " and ".join(percent(record["accuracy"]) for record in exact[1:])
    yield f"from seeds 1 and 2 the accuracy was {others} %"
    found = ", ".join(percent(record["accuracy"]) for record in paper)
    found = " and ".join(found.rsplit(", ", 1))
    medians = [record["certificate"]["residual"]["training"]["median"] for record in paper]
    yield (
        f"the three seeds gave {found} %, and median residuals of {min(medians):.2f} to "
        f"{max(medians):.2f}."
    )


def plan(found: Record, record: Record) -> Iterator[str]:
    assert record["tasks"] == 4  # "medians of four tasks"; all else is in the table, which is its
    for run, cells in found.items():
        yield row(run, *cells.values())

    def numbers(column: str) -> list[float]:
        cells = [own[column] for own in found.values()]
        return [float(cell.replace(",", "")) for cell in cells if cell != "–"]

    errors, condition = numbers("error at K = N = 20"), numbers("L / mu")
    yield f"is {min(errors):g} to {max(errors):g} times the hypergradient's own length"
    lower, adjoint = numbers("planned K"), numbers("planned N")
    yield (
        f"{min(lower):,.0f} to {max(lower):,.0f} lower steps, and for {min(adjoint):.0f} to "
        f"{max(adjoint):.0f} of conjugate gradients"
    )
    solved = [n for n, own in enumerate(found.values()) if own["K = N needed"] != "–"]
    needed = numbers("K = N needed")
    excess = [lower[n] / steps for n, steps in zip(solved, needed, strict=True)]
    yield f"{min(excess):.0f} to {max(excess):.0f} times the lower steps that are needed"
    assert (len(lower), len(excess)) == (6, 3)  # "for three of six runs"
    yield f"the condition number, {min(condition):,.0f} to {max(condition):,.0f}"


QUOTES: Final = (
    Quote(
        PAGE,
        tuple(
            f"{OMNIGLOT}/{file}"
            for file in (
                "result.json",
                "5way-1shot.json",
                "training-characters.json",
                "metrics.jsonl",
            )
        ),
        omniglot,
    ),
    Quote(PAGE, ("results/omniglot-search.md",), omniglot_search),
    Quote("docs/data.md", ("results/drawings.md",), drawings),
    Quote(PAGE, (f"{CIFAR}/accuracy.md", f"{CIFAR}/hypergradient.md"), cifar_fs),
    Quote(PAGE, (f"{CIFAR}/rates.md",), rates),
    Quote(PAGE, (f"{CIFAR}/memory.json",), memory),
    Quote(PAGE, ("benchmarks/results/published.json",), published),
    Quote(PAGE, ("results/residual/study.json",), residual),
    Quote(PAGE, ("results/residual-cifar-fs/study.json",), residual_cifar_fs),
    Quote(PAGE, ("results/batches/study.json",), batches),
    Quote(PAGE, ("results/plan/plan.md", "results/plan/plan.json"), plan),
    Quote("README.md", (f"{CIFAR}/accuracy.md", f"{CIFAR}/hypergradient.md"), cifar_in_short),
    Quote(
        "README.md",
        tuple(f"{GLYPHS}/{kind}-{seed}.json" for kind in ("exact", "paper") for seed in range(3)),
        glyphs,
    ),
)
