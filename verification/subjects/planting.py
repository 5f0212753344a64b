"""Plant a bug in the shipped code: change one place of its source text, run that, undo it."""

import __future__

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any


class SnippetError(ValueError):
    """The source text a bug was to be planted in is not there, or there more than once."""


@dataclass(frozen=True)
class SourceBug:
    """One replacement in the source of one module, inside one of its functions or methods.

    Attributes:
        module: its full name.
        old: the text to be replaced; must occur exactly once in the module.
        new: the text in its place.
    """

    module: str
    old: str
    new: str

    def plan(self) -> tuple[FunctionType, FunctionType]:
        """The function that holds the text, and the same compiled from the changed source.

        Raises:
            SnippetError: `old` does not occur exactly once, or in no function.
        """
        return _plan(self)


@cache  # a subject plants its bug at every call, and a claim calls it hundreds of times
def _plan(bug: SourceBug) -> tuple[FunctionType, FunctionType]:
    module = importlib.import_module(bug.module)
    source = inspect.getsource(module)
    if (count := source.count(bug.old)) != 1:
        raise SnippetError(
            f"{bug.module} contains {bug.old!r} {count} times; a bug is planted where it "
            "occurs once. The source has changed: state the bug in its new words."
        )
    for path, node in _functions(ast.parse(source), ()):
        text = ast.get_source_segment(source, node, padded=True)
        if text is None or bug.old not in text:
            continue
        found: Any = module
        for name in path:
            found = getattr(found, name)
        # annotations stay text, as in the module, and are not evaluated here
        code = compile(
            textwrap.dedent(text).replace(bug.old, bug.new),
            filename=f"<bug in {bug.module}>",
            mode="exec",
            flags=__future__.annotations.compiler_flag,
            dont_inherit=True,
        )
        names: dict[str, Any] = {}
        exec(code, vars(module), names)
        return _innermost(found), _innermost(names[node.name])
    raise SnippetError(f"{bug.module} contains {bug.old!r} outside its functions.")


def _functions(
    tree: ast.Module | ast.ClassDef, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], ast.FunctionDef]]:
    """Functions of a module and methods of its classes, by name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield (*path, node.name), node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, (*path, node.name))


def _innermost(found: Any) -> FunctionType:
    """The function below class methods, decorators and runtime type checks."""
    found = inspect.unwrap(getattr(found, "__func__", found))
    if not isinstance(found, FunctionType):
        raise TypeError(f"{found!r} is a {type(found).__name__}; a bug needs a Python function.")
    return found


@contextmanager
def planted(bug: SourceBug) -> Iterator[None]:
    """The library with this bug in it, everywhere: the function's code itself is exchanged.

    Whoever imported the function by name has the bug too, and runtime type checks stay around it.
    """
    function, changed = bug.plan()
    honest = function.__code__
    function.__code__ = changed.__code__
    try:
        yield
    finally:
        function.__code__ = honest


@dataclass(frozen=True)
class InSource:
    """A subject, run on the library with a bug in its source.

    Attributes:
        bugs: the changes, one in each place that has the mistake.
        subject: any implementation under test.
    """

    bugs: tuple[SourceBug, ...]
    subject: Callable[..., Any]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The subject's answer while the bug is planted."""
        with ExitStack() as planting:
            for bug in self.bugs:
                planting.enter_context(planted(bug))
            return self.subject(*arguments, **named)
