"""What the other pages quote from result files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks import digits, kronecker, large_networks, network_peers
from tests.project.quotes.quote import Quote, Record, percent, row

BENCHMARKS: Final = "benchmarks/results"
VERIFICATION: Final = "results/verification"
RELIABILITY: Final = "results/reliability"
MIB: Final = 2**20


def allreduce(record: Record) -> Iterator[str]:
    for name, words in (("2 ranks", "2"), ("4 ranks", "4, on two cores")):
        fit = record["fit"][name]
        alpha, rate = 1000 * fit["alpha_seconds"], fit["bytes_per_second"] / 1e9
        misfit = 100 * fit["largest_relative_misfit"]
        yield f"| {words} | {alpha:#.2g} ms | {rate:.2g} GB/s | {misfit:.0f} %"
    conv4, resnet = (record["ddp_or_bucket"][name] for name in ("conv4", "resnet12"))
    yield (
        f"the bucket takes {conv4['bucket_over_ddp']:.2f} times the step of DDP for a Conv4 and "
        f"{resnet['bucket_over_ddp']:.2f} times for a ResNet-12 of "
        f"{resnet['parameters'] / 1e6:.1f}M parameters"
    )


def two_ranks(record: Record) -> Iterator[str]:
    yield (
        f"{record['median_ratio']:.2f} times the tasks per second in the median of the five, where "
        "two unrelated busy processes did "
        f"{record['median_ratio_of_unrelated_processes']:.2f} times the work of one"
    )


def scaling(record: Record) -> Iterator[str]:
    names = {"Conv4-64": "Conv4-64, 0.11M", "ResNet-12": "ResNet-12, 12.4M"}
    for name, table in record["efficiency"].items():
        for tasks, by_count in table.items():
            count = tasks.split()[0]
            gpus = ("2", "8", "16", "64", "256", "1024")
            cells = [f"{by_count[each] + 1e-9:.2f}" for each in gpus]  # recorded to a thousandth
            line = row(count, "1", *cells)
            task = record["subjects"][name]["task"]
            power = len(str(int(task))) - 1
            digits = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
            size = f"{task / 10**power:.1f}·10{digits}"
            label = names.get(name, "100M transformer")
            yield f"| {label} | {size} {line}" if count == "1" else f"| | {line}"


def beyond_memory(record: Record) -> Iterator[str]:
    yield (
        f"trained on a sparse file of {record['bytes'] / 2**30:.0f} GiB on a machine of "
        f"{record['memory'] / 2**30:.1f} GiB: {record['steps']} steps at "
        f"{record['tasks_per_second']:.1f} tasks a second"
    )
    yield (
        f"with {record['anonymous'] / MIB:.0f} MiB of private memory, "
        f"{record['anonymous_growth'] / MIB:.0f} MiB more than after the first step"
    )
    yield f"reads the file once, in {record['checked_seconds']:.0f} s"


def stationarity(record: Record) -> Iterator[str]:
    wide, narrow = (record[f"torch.{name}"]["counts"] for name in ("float64", "float32"))
    false = [counts["false alarms"] for counts in (wide, narrow)]
    both = (wide["minimisers"] + narrow["minimisers"]) / sum(false)
    yield (
        f"{false[0]} in float64 and {false[1]} in float32 were called none: 1 in {both:,.0f} of "
        "both"
    )
    # each point is judged with two solvers
    off = [
        sum(count for name, count in counts.items() if name.endswith(": off")) // 2
        for counts in (wide, narrow)
    ]
    yield f"{off[0]:,} in float64 and {off[1]:,} in float32, were all called no minimiser"


def second_derivatives(record: Record) -> Iterator[str]:
    counts = [record[f"torch.{name}"]["counts"] for name in ("float64", "float32")]

    def added(ending: str) -> list[int]:
        return [sum(n for key, n in each.items() if key.endswith(ending)) for each in counts]

    alarms, judged = (
        added("called wrong"),
        counts[0]["right, start"] + counts[0]["right, minimiser"],
    )
    yield f"{alarms[0]} of {judged:,} in float64 and {alarms[1]} of {judged:,} in float32"
    off, missed = added(": off"), added(": missed")
    assert missed == [0, 0]
    yield f"{off[0]:,} in float64 and {off[1]:,} in float32, none was missed"


def crossover(record: Record) -> Iterator[str]:
    names = {"quadratic": "quadratic", "regression": "ridge regression on 1,000 examples"}
    for size in record["sizes"]:
        if size["tasks"] == 1 and size["kind"] == "quadratic" and size["unknowns"] <= 64:
            assert size["steps"] < 1  # one row for both: "below 1"
            continue
        cells = (size["tasks"], size["unknowns"], round(size["steps"]))
        yield row(names[size["kind"]], *map(str, cells))


def normalisation(record: Record) -> Iterator[str]:
    found = {(r["data"], r["trained"], r["way"]): r for r in record["rows"]}

    def cell(data: str, kind: str, way: str) -> str:
        r = found.get((data, kind, way))
        return "" if r is None else f"{percent(r['accuracy'])} ± {percent(r['interval'])}"

    ways = ("together", "one class at a time", "alone", "by the support")
    for run in record["runs"]:
        own = (run["settings"]["data"], run["normalisation"])
        yield row(*own, *(cell(*own, way) for way in ways))
    apart = {key: 100 * r["apart"] for key, r in found.items()}
    sets = list(dict.fromkeys(r["data"] for r in record["rows"]))
    lost = [[-apart[each, "transductive", way] for each in sets] for way in ways[1:]]
    yield (
        f"loses {min(lost[1]):.0f} to {max(lost[1]):.0f} points where pictures come one by one, "
        f"and {min(lost[0]):.0f} to {max(lost[0]):.0f} where they come class by class"
    )
    yield f"keeps all but {min(lost[2]):.1f} to {max(lost[2]):.1f} points"
    for each in sets:
        for kind in ("stored", "group"):  # "the accuracy that it prints"
            assert abs(apart[each, kind, "alone"]) < 0.01

    for each, way in ((each, kind) for each in sets for kind in ("stored", "group")):
        rival, whole = found[each, way, "alone"], found[each, "transductive", "together"]
        gap = abs(rival["accuracy"] - whole["accuracy"])
        assert gap < rival["interval"] + whole["interval"]  # "overlap everywhere"

    def above(kind: str) -> list[float]:
        best = [found[each, "transductive", "together"]["accuracy"] for each in sets]
        own = [found[each, kind, "alone"]["accuracy"] for each in sets]
        return [100 * (o - b) for o, b in zip(own, best, strict=True)]

    words = [", ".join(f"{each:+.1f}" for each in above(kind)) for kind in ("stored", "group")]
    yield f"stored averages are {words[0]} points from the transductive run's whole episodes"
    yield f"groups {words[1]}"


def cross_domain(record: Record) -> Iterator[str]:
    found = {
        r["normalisation"]: percent(r["accuracy"], 1)
        for r in record["rows"]
        if (r["trained_on"], r["tested_on"]) == ("omniglot", "glyphs")
    }
    yield (
        f"groups give {found['group']} %, stored averages {found['stored']} and transductive "
        f"statistics {found['transductive']}"
    )


def first_use(record: Record) -> Iterator[str]:
    seconds = [step["processor_seconds"] for step in record["commands"]]
    yield (
        f"took {seconds[0]:.0f}, {seconds[1]:.0f} and {seconds[2]:.0f} seconds of processor time, "
        f"and answered {record['right']} of {record['asked']} new pictures right"
    )


def mutated_files(record: Record) -> Iterator[str]:
    slowest = record["slowest"]
    yield (
        f"{record['files']} mutated files: {record['read']} read, {record['refused']} refused, "
        f"{record['ended']} ended their process and were refused, {record['otherwise']} "
        f"otherwise; a child took up to {record['peak_bytes'] / MIB:.0f} MiB; slowest: "
        f"{slowest['form']}, file {slowest['file']}, "
        f"{1000 * slowest['cpu_seconds']:.0f} ms of CPU (allowed 30 s)"
    )


def kills(record: Record) -> Iterator[str]:
    yield (
        f"{record['kills']} kills of either rank in {record['runs']} runs, {record['inside_save']} "
        "of them inside the writing of a checkpoint: every run completed, with the same weights"
    )
    assert record["completed"] == record["same_weights"] == record["runs"]


def resumes(record: Record) -> Iterator[str]:
    yield f"`python -m tests.metalearn.kills --times {record['times']}` ends one run"
    assert not record["differing"]  # "bit-identical"


def soak(record: Record) -> Iterator[str]:
    yield (
        f"{record['steps']:,} steps: {record['bytes_per_1000_steps'] / MIB:.2f} MiB more in 1,000 "
        f"steps, {record['files_at_the_end']} files throughout"
    )


def verified(record: Record) -> Iterator[str]:
    bugs = {(entry["kind"], entry["bug"]) for entry in record["detection"]}
    assert record["passed"]
    yield (
        f"{len(record['claims'])} claims, {record['different_problems']:,} different problems, "
        f"{record['comparisons']:,} comparisons and {len(bugs)} planted bugs in "
        f"{record['seconds']:,.0f} s of two processes"
    )
    yield f"It was run at commit `{record['provenance']['commit'][:7]}`"


def mutation(record: Record) -> Iterator[str]:
    low, high = (percent(share, 1) for share in record["interval_95"])
    yield (
        f"**{percent(record['score'], 1)}% of {record['tried']} mutants noticed**, drawn at random "
        f"(seed {record['sample_seed']}) from {record['mutants']}; the exact 95 % interval for the "
        f"score of all of them is {low}% to {high}%"
    )


def curvatures(record: Record) -> Iterator[str]:
    found = record["settings"]["many examples"]
    yield f"{found['parameters']:,} weights on {found['examples']:,} examples"
    for name, way in found["ways"].items():
        time = way["time_over_gradient"]["median"]
        over = f"{way['bytes_over_gradient']:.2f}", f"{time:.1f}"
        yield row(f"`{name}`", *over, f"{way['relative_error']:.0e}")


def beside_peers(record: Record) -> Iterator[str]:
    yield from network_peers.rows(record)
    yield f"{record['seeds']} seeds each"
    ways = {way["how"]: way for way in record["ways"]}
    peer, whole = ways["MetaAdamW, all steps unrolled"], "updates.AdamW, all 16 steps"
    again, known = f"{whole}, each in a checkpoint", "CG(damping=1.0, rtol=1e-2)"

    def over(how: str) -> tuple[float, float]:
        one = ways[how]
        return one["memory"] / peer["memory"], one["time"]["median"] / peer["time"]["median"]

    assert ways[whole]["accuracies"] == ways[again]["accuracies"] == peer["accuracies"]
    memory, time = over(again)
    yield f"it takes {memory:.2f} of `MetaAdamW`'s memory and {time:.1f} times its time"
    yield f"take {over('updates.AdamW, the last 8 steps')[0]:.2f} of that memory"
    memory, time = over(known)
    yield f"at {memory:.2f} of the memory and {time:.2f} of the time of `MetaAdamW`"
    certain = {how for how, way in ways.items() if sum(network_peers.apart(way, peer)) < 0}
    one_term = {how for how in ways if "max_steps=1)" in how or "darts" in how or "sama" in how}
    last_batch = {how for how, way in ways.items() if way["package"] == "Betty" and ";" not in how}
    assert certain == one_term | last_batch | {
        "no weights",
        "updates.AdamW, the last 4 steps",
        "custom_root, solve_cg(maxiter=100, rtol=1e-3)",
    }


def factors(record: Record) -> Iterator[str]:
    yield from kronecker.rows(record)
    counts = [one["products"] for one in record["systems"]]
    saved = [[one["none"] - one[name] for one in counts] for name in ("K-FAC", "EK-FAC")]
    yield f"in the median, and at most {max(map(max, saved))}"


def larger(record: Record) -> Iterator[str]:
    yield from large_networks.rows(record)
    eight_to_eleven_vectors(record)
    (one,) = record["networks"].values()
    yield f"and through one of {one['weights']:,}"


def eight_to_eleven_vectors(record: Record) -> None:
    for one in record["networks"].values():
        found = [solver["over_weights"] for solver in one["solvers"].values()]
        assert round(min(found)) == 8
        assert round(max(found)) == 11


def large(record: Record) -> Iterator[str]:
    yield from large_networks.rows(record)
    eight_to_eleven_vectors(record)
    found = record["networks"].values()
    weights = " and ".join(f"{one['weights']:,}" for one in found)
    yield f"networks of {weights} weights"
    yield f"an error of the hypergradient of {max(one['bfloat16'] for one in found):.0e} at most"


QUOTES: Final = (
    Quote("docs/scaling.md", (f"{BENCHMARKS}/allreduce.json",), allreduce),
    Quote("docs/scaling.md", (f"{BENCHMARKS}/two_ranks.json",), two_ranks),
    Quote("docs/scaling.md", (f"{BENCHMARKS}/scaling.json",), scaling),
    Quote("docs/scaling.md", (f"{BENCHMARKS}/beyond_memory.json",), beyond_memory),
    Quote("docs/theory.md", (f"{BENCHMARKS}/stationarity.json",), stationarity),
    Quote("docs/theory.md", (f"{BENCHMARKS}/second_derivatives.json",), second_derivatives),
    Quote("docs/solvers.md", (f"{BENCHMARKS}/crossover.json",), crossover),
    Quote("docs/adjoints.md", (f"{BENCHMARKS}/curvatures.json",), curvatures),
    Quote("docs/guides/networks.md", (f"{BENCHMARKS}/digits.json",), digits.rows),
    Quote("docs/guides/networks.md", (f"{BENCHMARKS}/network_peers.json",), beside_peers),
    Quote("docs/guides/networks.md", (f"{BENCHMARKS}/large_networks.json",), large),
    Quote("docs/guides/networks.md", (f"{BENCHMARKS}/larger_networks.json",), larger),
    Quote("docs/guides/learner.md", ("results/normalisation/study.json",), normalisation),
    Quote("docs/guides/learner.md", ("results/cross-domain/study.json",), cross_domain),
    Quote("docs/guides/own-pictures.md", (f"{BENCHMARKS}/first_use.json",), first_use),
    Quote("docs/solvers.md", (f"{BENCHMARKS}/kronecker.json",), factors),
    Quote("docs/data.md", ("results/mutated-files.json",), mutated_files),
    Quote("docs/reliability.md", (f"{RELIABILITY}/kills.json",), kills),
    Quote("docs/reliability.md", (f"{RELIABILITY}/resumes.json",), resumes),
    Quote("docs/reliability.md", (f"{RELIABILITY}/soak.json",), soak),
    Quote("docs/verification.md", (f"{VERIFICATION}/full/report.json",), verified),
    Quote("docs/mutation-testing.md", (f"{VERIFICATION}/mutation.json",), mutation),
)
