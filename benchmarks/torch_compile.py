"""Gain of torch.compile in one hypergradient: in a product, in a step of CG, or in all of it.

    python -m benchmarks.torch_compile --out benchmarks/results/torch_compile.json

Three ways to compile conjugate gradients so that the time of compiling does not grow with their
number of steps: the Hessian product alone, within this library's CG; one step, in a Python loop;
and the whole hypergradient, its loop a ``while_loop``. All are written with torch.func for one
task, without certificates and checks: the most that could be gained. Each is made in a process of
its own with an empty cache, then again in another that finds the cache, by one thread; seconds of
compiling are the processor's, of the process and the compilers that it starts. What counts is the
time of a later call over that of ``hypergradient`` with ``CG``, in turns. A sum of squares is
compiled for scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from benchmarks.peer_cases import CASES, Case
from benchmarks.peer_entries import RTOL, STEPS
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, ratios, seconds
from hypergrad import CG, Bilevel, hypergradient

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
TURN = 0.05  # seconds that a turn takes at least, unless one call takes longer
DEFAULT = ["quadratic-10", "quadratic-1000", "logistic-small"]


def product_only(case: Case, compiler: Compiler) -> Callable[[], Tensor]:
    """This library's CG on a compiled product."""
    product = compiler(lambda theta, phi, v: _product(case, theta, phi, v))

    def run() -> Tensor:
        theta, phi = case.theta, case.phi
        own, rhs = _upper_gradients(case, theta, phi)
        found = CG(rtol=RTOL).solve(
            lambda v: product(theta, phi, v.view_as(phi)).flatten(), rhs.flatten()
        )
        return own - _cross(case, theta, phi, found.x.view_as(phi))

    return run


def one_step(case: Case, compiler: Compiler) -> Callable[[], Tensor]:
    """A compiled step of conjugate gradients, in a loop that reads one number a step."""
    begin = compiler(lambda theta, phi: _upper_gradients(case, theta, phi))
    step = compiler(lambda theta, phi, *state: _step(case, theta, phi, *state))
    end = compiler(lambda theta, phi, v: _cross(case, theta, phi, v))

    def run() -> Tensor:
        theta, phi = case.theta, case.phi
        own, rhs = begin(theta, phi)
        state = _first(rhs)
        goal, taken = RTOL**2 * float(state[-1]), 0
        while float(state[-1]) > goal and taken < STEPS:
            state, taken = step(theta, phi, *state), taken + 1
        pulled: Tensor = own - end(theta, phi, state[0])
        return pulled

    return run


def whole(case: Case, compiler: Compiler) -> Callable[[], Tensor]:
    """The hypergradient as one program."""
    while_loop: Any = torch._higher_order_ops.while_loop

    def program(theta: Tensor, phi: Tensor) -> Tensor:
        own, rhs = _upper_gradients(case, theta, phi)
        goal = RTOL**2 * rhs.square().sum()

        def goes_on(*state: Tensor) -> Tensor:
            return (state[3] > goal) & (state[4] < STEPS)

        def body(*state: Tensor) -> tuple[Tensor, ...]:
            return *_step(case, theta, phi, *state[:4]), state[4] + 1

        v = while_loop(goes_on, body, (*_first(rhs), torch.zeros((), dtype=torch.int64)))[0]
        return own - _cross(case, theta, phi, v)

    ready = compiler(program)
    return lambda: ready(case.theta, case.phi)


FORMS = {"product": product_only, "step": one_step, "whole": whole}


def _upper_gradients(case: Case, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = grad(case.upper, argnums=(0, 1))(theta, phi)
    return found


def _product(case: Case, theta: Tensor, phi: Tensor, v: Tensor) -> Tensor:
    image: Tensor = vjp(lambda at: grad(case.lower, argnums=1)(theta, at), phi)[1](v)[0]
    return image


def _cross(case: Case, theta: Tensor, phi: Tensor, v: Tensor) -> Tensor:
    image: Tensor = vjp(lambda at: grad(case.lower, argnums=1)(at, phi), theta)[1](v)[0]
    return image


def _first(rhs: Tensor) -> tuple[Tensor, ...]:
    """x, residual, direction, the residual's square."""
    return torch.zeros_like(rhs), rhs.clone(), rhs.clone(), rhs.square().sum()


def _step(
    case: Case, theta: Tensor, phi: Tensor, x: Tensor, r: Tensor, p: Tensor, rho: Tensor
) -> tuple[Tensor, ...]:
    image = _product(case, theta, phi, p)
    length = rho / (p * image).sum()
    x, r = x + length * p, r - length * image
    new = r.square().sum()
    return x, r, r + new / rho * p, new


def measure(case: Case, form: str, rounds: int) -> dict[str, object]:
    """In a process that has compiled nothing before: the first call, then calls in turns."""
    run = FORMS[form](case, lambda f: torch.compile(f, fullgraph=True, dynamic=False))
    problem = Bilevel(upper=case.upper, lower=case.lower)

    def eager() -> Tensor:
        return hypergradient(problem, case.theta, case.phi, solver=CG(rtol=RTOL)).grad

    first = _first_call(run)
    errors = case.error(run()), case.error(eager())
    calls = [max(1, int(TURN / seconds(each))) for each in (eager, run)]
    over = ratios(interleaved([eager, run], rounds=rounds, calls=calls))[1]
    return {
        "first_call_s": first,
        "error": errors[0],
        "error_of_hypergradient": errors[1],
        "over_hypergradient": dataclasses.asdict(over),
    }


def _first_call(run: Callable[[], object]) -> float:
    began = _spent()
    run()
    return _spent() - began


def _spent() -> float:
    """Seconds of the processor, of this process and of those that it waited for."""
    return sum(os.times()[:4])


def _child(name: str, form: str, rounds: int, cache: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.torch_compile", "--child", name, form]
    done = subprocess.run(
        [*command, "--rounds", str(rounds)],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _twice(name: str, form: str, rounds: int) -> dict[str, Any]:
    """With an empty cache, and in another process with the one that the first has filled."""
    with tempfile.TemporaryDirectory() as cache:
        first, cached = (_child(name, form, rounds, cache) for _ in range(2))
    row = {"case": name, "form": form} | first | {"cached_call_s": cached["first_call_s"]}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=DEFAULT)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.child is not None:
        name, form = asked.child
        if form == "sum":
            program = torch.compile(lambda x: x.square().sum(), fullgraph=True, dynamic=False)
            print(json.dumps({"first_call_s": _first_call(lambda: program(torch.ones(10)))}))
        else:
            print(json.dumps(measure(CASES[name](), form, asked.rounds)))
        return
    origin = provenance()
    rows = [_twice("none", "sum", 1)]
    rows += [_twice(name, form, asked.rounds) for name in asked.cases for form in FORMS]
    if asked.out is not None:
        write(asked.out, {"provenance": origin, "rtol": RTOL, "rounds": asked.rounds, "rows": rows})


if __name__ == "__main__":
    main()
