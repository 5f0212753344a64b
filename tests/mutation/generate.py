"""Mutants of a module: its source with one expression of one function changed.

Left out, because no test should depend on it or none can: annotations, docstrings, messages (all
of a `raise`, every string, `stacklevel`), `zip`'s `strict`, decorators, defaults of parameters,
type arguments of `cast`, and changes that compile to the code that was there.
"""

import __future__

import importlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import libcst as cst
from libcst.metadata import (
    CodeRange,
    MetadataWrapper,
    PositionProvider,
    WhitespaceInclusivePositionProvider,
)
from mutmut.mutation.mutators import mutation_operators

# `zip(..., strict=True)` asserts what cannot happen; a warning's stacklevel is part of its message.
_GUARDS = ("strict", "stacklevel")


@dataclass(frozen=True)
class Mutant:
    """One change of one function.

    Attributes:
        name: unique among all mutants.
        module: full name.
        path: the function's name, below those of its classes.
        line: of the change, in the module.
        first: the function's first line.
        last: the function's last line.
        before: the changed source.
        after: what it was changed to.
        code: of the changed function.
    """

    name: str
    module: str
    path: tuple[str, ...]
    line: int
    first: int
    last: int
    before: str
    after: str
    code: CodeType


def mutants(name: str) -> list[Mutant]:
    """All mutants of a module."""
    module = importlib.import_module(name)
    wrapper = MetadataWrapper(cst.parse_module(inspect.getsource(module)))
    places: Any = wrapper.resolve(PositionProvider)
    spans: Any = wrapper.resolve(WhitespaceInclusivePositionProvider)
    lines = wrapper.module.code.splitlines(keepends=True)
    found: list[Mutant] = []
    for path, function in _functions(wrapper.module, ()):
        first, last = places[function].start.line, places[function].end.line
        source = lines[first - 1 : last]
        honest = _compile("".join(source), module.__file__ or name)
        seen = {_signature(honest)}
        for old, new in _changes(function.body):
            changed = _spliced(source, first, spans[old], _code(new))
            try:
                code = _compile(changed, module.__file__ or name)
            except SyntaxError:  # a keyword argument before a positional one, say
                continue
            if code.co_freevars != honest.co_freevars or _signature(code) in seen:
                continue
            seen.add(_signature(code))
            line = places[old].start.line
            found.append(
                Mutant(
                    name=f"{name}:{line}:{'.'.join(path)}:{len(found)}",
                    module=name,
                    path=path,
                    line=line,
                    first=first,
                    last=last,
                    before=_text(old),
                    after=_text(new),
                    code=code,
                )
            )
    return found


def function_of(mutant: Mutant) -> FunctionType:
    """The live function whose code the mutant's replaces, below decorators and type checks."""
    found: Any = importlib.import_module(mutant.module)
    for name in mutant.path:
        found = vars(found)[name]
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    function = inspect.unwrap(found)
    if not isinstance(function, FunctionType):
        raise TypeError(f"{mutant.name} is a {type(function).__name__}, not a Python function.")
    return function


def _functions(
    node: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], cst.FunctionDef]]:
    """Functions of a module and methods of its classes; protocols' are empty and left out."""
    for child in node.body if isinstance(node, cst.Module) else node.body.body:
        if isinstance(child, cst.FunctionDef):
            yield (*path, child.name.value), child
        elif isinstance(child, cst.ClassDef):
            yield from _functions(child, (*path, child.name.value))


def _changes(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    if isinstance(node, cst.Annotation | cst.Raise | cst.BaseString | cst.Decorator | cst.Param):
        return
    if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value in _GUARDS:
        return
    if isinstance(node, cst.Call) and _called(node) in ("cast", "len", "isinstance"):
        for argument in node.args[1:]:
            yield from _changes(argument)
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from ((node, new) for new in operator(node) if not _drops_text(node, new))
    for child in node.children:
        yield from _changes(child)


def _called(call: cst.Call) -> str:
    return call.func.value if isinstance(call.func, cst.Name) else ""


def _drops_text(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether a change of a call is one of a message, or of how it is raised or asserted."""
    if not (isinstance(old, cst.Call) and isinstance(new, cst.Call)):
        return False
    kept = {id(arg) for arg in new.args}
    gone = [arg for arg in old.args if id(arg) not in kept]
    return any(
        isinstance(arg.value, cst.BaseString)
        or (arg.keyword is not None and arg.keyword.value in _GUARDS)
        for arg in gone
    )


def _spliced(source: Sequence[str], first: int, span: CodeRange, new: str) -> str:
    """Lines of a function, the first one numbered `first`, with other text at a span.

    libcst's own `deep_replace` copies the whole function for each of its mutants.
    """
    start, end = span.start.line - first, span.end.line - first
    before = (*source[:start], source[start][: span.start.column])
    return "".join((*before, new, source[end][span.end.column :], *source[end + 1 :]))


def _compile(function: str, file: str) -> CodeType:
    # Not dedented: a replaced part of several lines is indented less than what is around it.
    source = f"if True:\n{function}" if function[0].isspace() else function
    names = compile(
        source, file, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True
    )
    (code,) = (c for c in names.co_consts if isinstance(c, CodeType))
    return code


def _signature(code: CodeType) -> tuple[object, ...]:
    """What a code object does, whatever its lines are called."""
    constants = tuple(
        _signature(c) if isinstance(c, CodeType) else (type(c), repr(c)) for c in code.co_consts
    )
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


def _code(node: cst.CSTNode) -> str:
    return cst.Module(body=()).code_for_node(node)


def _text(node: cst.CSTNode) -> str:
    return " ".join(_code(node).split())
