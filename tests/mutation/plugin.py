"""A pytest plugin: every mutant against the tests that run its line.

Tests are collected once. Each mutant gets a forked child in which the function's code is exchanged,
whoever imported the function by name, and which runs its tests one by one until one fails. The
parent itself runs no test, since what autograd starts must not be inherited by a fork.
"""

import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import coverage
import pytest

from tests.mutation.generate import Mutant, function_of

Fate: TypeAlias = Literal["killed", "timeout", "survived", "untested"]
ALIVE: tuple[Fate, ...] = ("survived", "untested")

# Exit statuses of a child.
_ALL_PASS, _ONE_FAILS = 0, 1
# A child's processor time is limited to this, and this many times what its tests usually take.
_SECONDS, _TIMES = 10, 5


class Measure:
    """Run every test once, in a child, and write down its time and the lines it runs.

    Attributes:
        files: file name by module.
        target: the file that is written.
    """

    def __init__(self, files: dict[str, str], target: Path) -> None:
        self.files, self.target = files, target

    def pytest_configure(self, config: pytest.Config) -> None:
        """See pytest."""
        _never_shrink()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """See pytest."""
        tracer = coverage.Coverage(data_file=None, include=list(self.files.values()))
        seconds: dict[str, float] = {}
        session.config.pluginmanager.register(_Loud(), "loud")
        for item in session.items:
            tracer.start()
            tracer.switch_context(item.nodeid)
            began = time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            seconds[item.nodeid] = time.process_time() - began
            tracer.stop()
        data = tracer.get_data()
        lines: dict[str, dict[str, list[str]]] = {}
        for module, file in self.files.items():
            known = data.contexts_by_lineno(file)
            lines[module] = {str(n): sorted(c for c in tests if c) for n, tests in known.items()}
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(json.dumps({"seconds": seconds, "lines": lines}), encoding="utf-8")
        return True


class Hunt:
    """Put every mutant to its tests.

    Attributes:
        mutants: in the order in which they are tried.
        measured: the file that :class:`Measure` wrote.
        budget: how many seconds' worth of tests a mutant is put to, at most.
        fates: what became of each mutant tried.
    """

    def __init__(self, mutants: Sequence[Mutant], measured: Path, budget: float) -> None:
        known = json.loads(measured.read_text(encoding="utf-8"))
        self._seconds: dict[str, float] = known["seconds"]
        self._lines: dict[str, dict[str, list[str]]] = known["lines"]
        self.mutants, self.budget = mutants, budget
        self.fates: dict[str, Fate] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        """See pytest."""
        _never_shrink()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """See pytest."""
        items = {item.nodeid: item for item in session.items}
        began = time.perf_counter()
        for count, mutant in enumerate(self.mutants, start=1):
            tests = self.tests(mutant)
            self.fates[mutant.name] = (
                self._try(mutant, [items[t] for t in tests]) if tests else "untested"
            )
            if count % 25 == 0 or count == len(self.mutants):
                alive = sum(fate in ALIVE for fate in self.fates.values())
                spent = time.perf_counter() - began
                sys.stderr.write(
                    f"{count}/{len(self.mutants)} tried, {alive} alive, {spent:.0f} s\n"
                )
        return True

    def tests(self, mutant: Mutant) -> list[str]:
        """The tests that run the mutant's line, each function's fastest first, in the budget."""
        lines = self._lines[mutant.module]
        # a statement of several lines counts as run where its first one is
        line = max((n for n in map(int, lines) if mutant.first < n <= mutant.line), default=0)
        ranked = _ranked(lines.get(str(line), []), self._seconds)
        return list(_within(ranked, self._seconds, self.budget))

    def _try(self, mutant: Mutant, items: Sequence[pytest.Item]) -> Fate:
        child = os.fork()
        if child == 0:
            _live(mutant, items, sum(self._seconds[item.nodeid] for item in items))
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):  # out of processor time, or crashed
            return "timeout"
        return "killed" if os.WEXITSTATUS(status) != _ALL_PASS else "survived"


def _ranked(tests: Sequence[str], seconds: dict[str, float]) -> list[str]:
    """Each test function's fastest case first, then each one's second fastest, and so on."""
    cases: Counter[str] = Counter()
    order: list[tuple[int, float, str]] = []
    for test in sorted(tests, key=lambda test: seconds[test]):
        function = test.partition("[")[0]
        order.append((cases[function], seconds[test], test))
        cases[function] += 1
    return [test for _, _, test in sorted(order)]


def _within(tests: Sequence[str], seconds: dict[str, float], budget: float) -> Iterator[str]:
    spent = 0.0
    for test in tests:
        yield test
        spent += seconds[test]
        if spent > budget:
            return


def _live(mutant: Mutant, items: Sequence[pytest.Item], usual: float) -> None:
    """A child's life; does not return."""
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silence, stream)
        limit = int(_SECONDS + _TIMES * usual)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        function_of(mutant).__code__ = mutant.code
        plugins = items[0].config.pluginmanager
        plugins.unregister(plugins.get_plugin("terminalreporter"))
        plugins.register(_FirstFailure(), "first failure")
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        os._exit(_ALL_PASS)
    finally:
        os._exit(_ONE_FAILS)


class _FirstFailure:
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os._exit(_ONE_FAILS)


class _Loud:
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            raise pytest.UsageError(
                f"{report.nodeid} fails without any mutant; see to it first.\n{report.longreprtext}"
            )


def _never_shrink() -> None:
    """A failing example kills a mutant; it need not be small. The draws are those of `ci`."""
    from hypothesis import Phase, settings  # which pytest wants to import first

    phases: Any = (Phase.explicit, Phase.generate)
    ci = settings.get_profile("ci")
    settings.register_profile("mutants", ci, phases=phases, database=None)
    settings.load_profile("mutants")
