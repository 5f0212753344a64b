"""report.html: one self-contained page, drawn from report.json and from nothing else."""

from html import escape
from itertools import groupby
from typing import Any

from verification.report import figures
from verification.report.figures import number

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 2rem auto; max-width: 80rem;
       padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.verdict { font-size: 1.1rem; padding: .5rem .8rem; border-left: .4rem solid; }
p.passes { border-color: #2e7d32; background: #eef6ee; }
p.fails { border-color: #b00020; background: #fbeef0; }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0; }
th, td { padding: .22rem .55rem; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
th { background: #f4f4f4; } td.n, th.n { text-align: right; white-space: nowrap; }
th.turned { writing-mode: vertical-rl; transform: rotate(180deg); padding: .55rem .22rem; }
td.what { min-width: 17rem; } td.caught { background: #d5ead6; text-align: center; }
td.some { background: #fff1cc; text-align: center; } td.none { text-align: center; color: #999; }
.bad { color: #b00020; font-weight: 600; } .scroll { overflow-x: auto; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure.narrow { max-width: 40rem; } figure svg { width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #444; } code { font-size: .85rem; }
"""


def html(report: dict[str, Any]) -> str:
    """The page."""
    passed = report["passed"]
    verdict = "passes" if passed else "fails"
    parts = [
        "<h1>Verification report</h1>",
        f'<p class="verdict {verdict}">The {report["size"]} run <b>{verdict}</b>: '
        f"{len(report['claims'])} claims, {report['different_problems']:,} different problems "
        "(tasks with data of their own), "
        f"{report['comparisons']:,} comparisons, {_bugs(report)} planted bugs, "
        f"{report['seconds']:.0f} s.</p>",
        *(f'<p class="bad">{escape(words)}</p>' for words in report["failures"]),
        _provenance(report),
        "<h2>Claims on the library</h2>",
        "<p>Each claim is put to the library with the seeds 0, 1, 2, ...; every comparison has a "
        "tolerance that is derived, and error/tolerance above 1 is a failure. Nothing is repeated, "
        "no seed is chosen. Claims about bounds include problems on which the bound is attained: "
        "there 1 is as it must be, up to the allowance for rounding. Statistical claims share a "
        "false-alarm probability of 1e-9 a run.</p>",
        _claims(report["claims"]),
        f'<figure class="narrow">{figures.margins(report["claims"])}</figure>',
    ]
    if report["series"]:
        drawn = "".join(_figure(series) for series in report["series"])
        parts += ["<h2>Measurement and theory</h2>", f'<div class="figures">{drawn}</div>']
    parts += [
        "<h2>Planted bugs</h2>",
        "<p>Every planted bug must be caught by the claim that it names, and every claim must "
        "catch one. A cell says for how many of the seeds it was shown the claim noticed; a dot "
        "is none, an empty cell that it was not shown. Claims have blind spots; docs/theory.md "
        "names them.</p>",
        *_detection(report["detection"]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Verification report</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _bugs(report: dict[str, Any]) -> int:
    return len({(cell["kind"], cell["bug"]) for cell in report["detection"]})


def _provenance(report: dict[str, Any]) -> str:
    made = report["provenance"]
    changed = {None: "", True: ", with changes that were not committed", False: ""}
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return (
        f"<p>Commit <code>{escape(made['commit'])}</code>{changed[made['changed']]}; "
        f"{escape(versions)}; {escape(made['device'])}.</p>"
    )


def _claims(claims: list[dict[str, Any]]) -> str:
    head = (
        "<tr><th>claim</th><th>states</th><th>put to</th><th class=n>seeds</th>"
        "<th class=n>comparisons</th><th class=n>worst error/tolerance</th>"
        "<th class=n>median</th><th class=n>CPU s</th><th>verdict</th></tr>"
    )
    rows = []
    for claim in claims:
        failed = len(claim["failures"])
        verdict = f'<span class="bad">fails ({failed})</span>' if failed else "holds"
        rows.append(
            f"<tr><td><b>{escape(claim['name'])}</b></td><td>{escape(claim['statement'])}</td>"
            f"<td>{escape(claim['kind'])}</td><td class=n>{claim['done']:,}</td>"
            f"<td class=n>{claim['comparisons']:,}</td>"
            f"<td class=n>{_ratio(claim['ratio'])}</td>"
            f"<td class=n>{_ratio(claim['median_ratio'])}</td>"
            f"<td class=n>{claim['seconds']:.0f}</td><td>{verdict}</td></tr>"
        )
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _ratio(value: float | str) -> str:
    """Plain from a tenth upwards, where a digit more tells how close to a failure it is."""
    ratio = number(value)
    return "0" if ratio == 0 else f"{ratio:.4f}" if 0.1 <= ratio < 10 else f"{ratio:.1e}"


def _figure(series: dict[str, Any]) -> str:
    title = series["name"][:1].upper() + series["name"][1:]
    caption = f"<b>{escape(title)}.</b> {escape(series['problem'])}."
    return f"<figure>{figures.curves(series)}<figcaption>{caption}</figcaption></figure>"


def _detection(cells: list[dict[str, Any]]) -> list[str]:
    tables = []
    ordered = sorted(cells, key=lambda cell: str(cell["kind"]))
    for kind, members in groupby(ordered, key=lambda cell: str(cell["kind"])):
        found = {(cell["claim"], cell["bug"]): cell for cell in members}
        claims = list(dict.fromkeys(claim for claim, _ in found))
        words = {cell["bug"]: cell["what"] for cell in found.values()}
        head = "".join(f'<th class="turned">{escape(claim)}</th>' for claim in claims)
        rows = []
        for bug, what in words.items():
            mine = [found.get((claim, bug)) for claim in claims]
            survives = not any(cell and cell["caught"] for cell in mine)
            mark = ' class="bad"' if survives else ""
            name = f"<td{mark}>{escape(bug)}</td><td class=what>{escape(what)}</td>"
            rows.append(f"<tr>{name}{''.join(_cell(cell) for cell in mine)}</tr>")
        tables.append(
            f"<h3>{escape(kind)}</h3><div class=scroll><table><tr><th>bug</th><th>what is wrong"
            f"</th>{head}</tr>{''.join(rows)}</table></div>"
        )
    return tables


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "<td></td>"
    if cell["caught"]:
        return f'<td class="caught">{cell["noticed"]}/{cell["shown"]}</td>'
    if cell["noticed"]:
        return f'<td class="some">{cell["noticed"]}/{cell["shown"]}</td>'
    return '<td class="none">·</td>'
