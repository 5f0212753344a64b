"""The run as it is shown in a terminal."""

from itertools import groupby

from rich.console import Group
from rich.table import Table
from rich.text import Text

from verification.suite.runner import Cell, Outcome


def progress(outcome: Outcome, seconds: float) -> Table:
    """The claims so far."""
    title = f"verification, size {outcome.size}: {seconds:.0f} s"
    if outcome.cells:
        title += f", {len(outcome.cells)} pairs of a claim and a planted bug"
    table = Table(title=title, title_justify="left")
    table.add_column("claim")
    table.add_column("states", overflow="fold")
    for name in ("seeds", "comparisons", "worst error/tolerance", "s"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in outcome.rows:
        verdict = Text("holds", "green") if row.done == row.seeds else Text("...")
        if row.failures:
            verdict = Text("FAILS", "bold red")
        table.add_row(
            row.name,
            row.statement,
            f"{row.done}/{row.seeds}",
            str(row.comparisons),
            f"{row.ratio:.1e}",
            f"{row.seconds:.1f}",
            verdict,
        )
    return table


def detection(outcome: Outcome) -> Group:
    """Claims against planted bugs, a table for each kind of subject."""
    tables = []
    cells = sorted(outcome.cells, key=lambda cell: cell.kind)
    for kind, members in groupby(cells, key=lambda cell: cell.kind):
        found = {(cell.claim, cell.bug): cell for cell in members}
        claims = list(dict.fromkeys(claim for claim, _ in found))
        words = {cell.bug: cell.what for cell in found.values()}
        table = Table(title=f"planted bugs of {kind}", title_justify="left")
        table.add_column("bug", overflow="fold")
        for claim in claims:
            table.add_column(claim, justify="center")
        for bug, what in words.items():
            mine = [found.get((claim, bug)) for claim in claims]
            missed = not any(cell is not None and cell.caught for cell in mine)
            style = "bold red" if missed else ""
            table.add_row(Text(f"{bug} {what}", style), *(_mark(cell) for cell in mine))
        tables.append(table)
    return Group(*tables)


def _mark(cell: Cell | None) -> Text:
    if cell is None:
        return Text(" ")
    if cell.caught:
        return Text("caught", "green")
    return Text(f"{cell.noticed}/{cell.shown}" if cell.noticed else ".")
