"""Quotes of the pages on performance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.cost_model import predicted_passes
from tests.project.quotes.quote import Quote, Record, row

PAGE: Final = "docs/performance.md"
PEERS: Final = "docs/peers.md"
PROFILES: Final = "docs/profiles.md"
RESULTS: Final = "benchmarks/results"
MIB: Final = 2**20


def _setting(record: Record, name: str) -> tuple[Record, dict[str, Record]]:
    (found,) = (setting for setting in record["settings"] if setting["name"] == name)
    return found, {entry["name"]: entry for entry in found["rows"]}


def _time(entry: Record) -> float:
    return float(entry["time"]["median"])


def published(record: Record) -> Iterator[str]:
    setting, mini = _setting(record, "mini-conv4-32")
    _, cifar = _setting(record, "cifar-conv4-64")
    for name, large in mini.items():
        small, steps = cifar[name], large["steps"]
        if name == "backbone's forward and backward":
            continue
        yield row(
            name.replace("forward and backward", "pass"),
            "" if steps is None else str(steps),
            f"{_time(large):.2f}",
            f"{large['bytes']:.2f}",
            f"{large['convolution_work']:.1f}",
            f"{predicted_passes(name, setting, steps or 0):.1f}",
            f"{_time(small):.2f}",
            f"{small['bytes']:.2f}",
        )
    ours = mini["Algorithm 1, this library"], cifar["Algorithm 1, this library"]
    script = mini["Algorithm 1, as published"], cifar["Algorithm 1, as published"]
    itd = mini["ITD-BiO, as published"], cifar["ITD-BiO, as published"]
    anil = mini["ANIL, as published"], cifar["ANIL, as published"]
    shares = [
        f"{100 * _time(script[i]) / _time(other[i]):.0f}" for i in (0, 1) for other in (itd, anil)
    ]
    yield (
        f"Algorithm 1 takes {shares[0]} and {shares[1]} % of the time of ITD-BiO and ANIL "
        f"({shares[2]} and {shares[3]} % at 32 pixels), and "
        f"{100 * script[0]['bytes'] / itd[0]['bytes']:.0f} % of their bytes"
    )
    maml = mini["MAML, as published"], cifar["MAML, as published"]
    one = [side["Algorithm 1, this library, one task at a time"] for side in (mini, cifar)]
    yield (
        f"{_time(maml[0]) / _time(one[0]):.0f} times in time "
        f"({_time(maml[1]) / _time(one[1]):.0f} at 32 pixels) and "
        f"{maml[0]['bytes'] / one[0]['bytes']:.0f} times in bytes, one task at a time on both sides"
    )
    streamed = [side["Algorithm 1, this library, streamed"] for side in (mini, cifar)]
    yield (
        f"One task at a time it takes {100 * one[0]['bytes'] / script[0]['bytes']:.0f} % of the "
        f"script's bytes, streamed {100 * streamed[0]['bytes'] / script[0]['bytes']:.0f} % in an "
        f"eighth of the time ({100 * streamed[1]['bytes'] / script[1]['bytes']:.0f} % in a sixth)"
    )
    assert round(_time(script[0]) / _time(ours[0])) == 12  # "a twelfth", "a ninth"
    assert round(_time(script[1]) / _time(ours[1])) == 9


def limit(record: Record) -> Iterator[str]:
    _, cifar = _setting(record, "cifar-conv4-64")
    _, mini = _setting(record, "mini-conv4-32")
    for name in list(cifar)[1:]:
        cells = [
            f"{x:.3f}" for side in (cifar, mini) for x in (_time(side[name]), side[name]["bytes"])
        ]
        yield row("the same, streamed" if "streamed" in name else name, *cells)
    grown = []
    for setting in record["settings"]:
        least, most = (setting["streamed_peak_bytes"][tasks] for tasks in ("32", "1024"))
        grown.append((most - least, 100 * (most - least) / least))
    yield (f"grows by {grown[0][0] / 1000:.0f} kB ({grown[0][1]:.2f} % and {grown[1][1]:.2f} %)")


def steps(record: Record) -> Iterator[str]:
    rows = {(r["method"], r["K"]): r for r in record["settings"]["cifar-conv4-64"]["rows"]}
    for method in dict.fromkeys(name for name, _ in rows):
        if (method, None) in rows:
            cells = [_short(_time(rows[method, None])), f"{rows[method, None]['bytes']:.2f}"]
            yield f"| {method} (has no K) | {cells[0]} | {cells[1]} | | | | |"
            continue
        found = [rows[method, k] for k in (5, 20, 100)]
        cells = [cell for r in found for cell in (_short(_time(r)), f"{r['bytes']:.2f}")]
        yield row(method, *cells)


def _short(time: float) -> str:
    """Three digits, or as many as stand before the point."""
    return f"{time:.2f}" if time < 9.995 else f"{time:.0f}"


def profile(record: Record) -> Iterator[str]:
    names = {
        "backbone, forward": "backbone forward",
        "lower solve, K = 20": "lower solve",
        "adjoint solve, N = 20": "adjoint solve",
        "backbone, backward": "backbone backward",
        "loss of the queries, checks, linearisation, cross product": "the rest",
    }
    for words, name in names.items():
        yield row(words, f"{record['over_a_pass'][name]:.3f}")


def coordinates(record: Record) -> Iterator[str]:
    ten, fifty, many, sparse, *logistic = (entry["ratio"] for entry in record["rows"])
    yield (
        f"it takes {ten:.2f} of the other's time at 10 features, {fifty:.2f} at 50 and "
        f"{many:.1f} times it at 500"
    )
    few = record["rows"][3]["ever_nonzero"]
    yield (
        f"{sparse:.1f} times at 500 where the least strength is three tenths and {few} entries are "
        "ever not zero"
    )
    yield f"{logistic[0]:.1f} times it at 10 and {logistic[1]:.1f} times at 50"


def torch_compile(record: Record) -> Iterator[str]:
    names = {
        "none": "a sum of squares, for scale",
        "quadratic-10": "quadratic, d = 10",
        "quadratic-1000": "quadratic, d = 1000",
        "logistic-small": "logistic regression, n = 300, d = 60, 10 classes",
    }
    last = ""
    for entry in record["rows"]:
        first, cached = (f"{entry[name]:.1f} s" for name in ("first_call_s", "cached_call_s"))
        case = "" if entry["case"] == last else names[entry["case"]]
        last = entry["case"]
        if last == "none":
            yield row(case, "", first, cached, "")
            continue
        later = f"{entry['over_hypergradient']['median']:.2f}"
        yield row(case, entry["form"], first, cached, later)


def whole_network(record: Record) -> Iterator[str]:
    for words, name in (("implicit MAML", "implicit"), ("unrolled MAML", "unrolled")):
        yield row(
            words,
            f"{record[f'{name}_bytes_that_a_step_adds']:,.0f}",
            f"{record[f'{name}_peak_over_a_pass']:.2f}",
            f"{record[f'{name}_time']['median']:.1f}",
        )
    yield f"Implicit MAML's peak is {100 * record['peak_ratio']:.1f} % of unrolled MAML's"
    yield (
        f"the residual is {record['implicit_residual']:.2f}, and float32 is "
        f"{100 * record['implicit_distance_from_float64']:.0f} % away from float64"
    )


def gate_repeated(record: Record) -> Iterator[str]:
    yield f"passed {record['passed']} times in a row at a load of {record['load']:.1f} on two cores"


def backbone_profile(record: Record) -> Iterator[str]:
    wide, narrow = (record["parts"][kind] for kind in ("float32", "bfloat16"))
    for name, one in wide.items():
        if name == "matrix product":
            continue
        each = [
            cell
            for part in (one, narrow[name])
            for cell in (f"{part['time']:.3f}", f"{part['rate']:.2f}" if part["rate"] else "")
        ]
        yield row(name, *each)
    sums = [
        sum(part["time"] for name, part in parts.items() if name.startswith(what))
        for what in ("convolution", "normalisation")
        for parts in (wide, narrow)
    ]
    yield f"together they take {sums[0]:.2f} of a pass"
    yield f"and in bfloat16 {sums[1]:.2f}."
    yield f"take {sums[2]:.2f} of a pass in float32 and {sums[3]:.2f} in bfloat16"
    yield f"under autocast takes {narrow['whole pass']['time']:.2f} of one in float32"


def vectors(record: Record) -> Iterator[str]:
    names = {
        "training": "60 steps of AdamW",
        "first": "the first hypergradient of its kind",
        "later": "a later one",
        "as_a_product_begins": "of it, as a product with the Hessian begins",
    }
    for key, name in names.items():
        yield row(name, f"{record[key]:.1f}", f"{record[key] / record['training']:.2f}")


def imports(record: Record) -> Iterator[str]:
    low, middle, high = record["over_torch"]["import hypergrad"]
    count = record["modules"]
    yield (
        f"`import hypergrad` takes {middle:.2f} (quartiles {low:.2f} to {high:.2f}) of the "
        f"processor time of `import torch`, and loads {count['hypergrad']} modules beside torch's"
    )
    assert count["metalearn"] == 1


def eager_profile(record: Record) -> Iterator[str]:
    found = {problem["name"]: problem for problem in record["problems"]}
    for problem in found.values():
        counts = (f"{problem[count]:,}" for count in ("frames", "operations", "passes"))
        shares = [*problem["shares"].values(), problem["bare"][0]]
        yield row(
            problem["name"], problem["solver"], *counts, *(f"{100 * part:.0f}" for part in shares)
        )
    tiny, logistic = (
        1 - found[name]["bare"][0]
        for name in ("quadratic, d = 10", "logistic, n = 300, d = 60, 10 classes")
    )
    assert round(1 / tiny) == 3
    assert round(1 / logistic) == 7
    yield "a third at d = 10, and a seventh in the smaller logistic regression"


def certified(record: Record) -> Iterator[str]:
    loops = record["loops"]
    for name, loop in loops.items():
        yield row(name, f"{loop['products']:,}", f"{loop['error']:.0e}", f"{loop['bound']:.0e}")
    rough, fine = loops["tolerance 1e-02"], loops["tolerance 1e-06"]
    share = loops["certified to 0.5"]
    assert rough["error"] < 0.5  # so that it needs no certificate to be as exact
    yield (
        f"{share['products'] / rough['products']:.1f} times the products of a tolerance of 10⁻², "
        f"and {share['products'] / fine['products']:.1f} times those of 10⁻⁶"
    )
    *first, last = (
        f"{loops[f'foreseen, as exact as {name}']['products'] / loop['products']:.2f}"
        for name, loop in loops.items()
        if name.startswith("tolerance")
    )
    yield f"They need {', '.join(first)} and {last} of the products of one tolerance"


QUOTES: Final = (
    Quote(PAGE, (f"{RESULTS}/published.json",), published),
    Quote(PAGE, (f"{RESULTS}/limit.json",), limit),
    Quote(PAGE, (f"{RESULTS}/steps.json",), steps),
    Quote(PROFILES, (f"{RESULTS}/profile.json",), profile),
    Quote(PEERS, (f"{RESULTS}/coordinates.json",), coordinates),
    Quote(PROFILES, (f"{RESULTS}/torch_compile.json",), torch_compile),
    Quote(PAGE, (f"{RESULTS}/whole_network.json",), whole_network),
    Quote(PAGE, (f"{RESULTS}/vectors.json",), vectors),
    Quote(PROFILES, (f"{RESULTS}/imports.json",), imports),
    Quote(PROFILES, (f"{RESULTS}/gate_repeated.json",), gate_repeated),
    Quote(PROFILES, (f"{RESULTS}/certified.json",), certified),
    Quote(PEERS, (f"{RESULTS}/eager_profile.json",), eager_profile),
    Quote(PROFILES, (f"{RESULTS}/backbone_profile.json",), backbone_profile),
)
