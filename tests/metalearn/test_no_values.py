"""Upper steps on a device whose values cannot be read: the host waits for nothing.

torch's meta device knows shapes, types and devices, and has no values. An upper step that runs on
it reads no number, goes no way that depends on one, and brings no tensor from elsewhere without
saying so: what makes a host wait for a GPU is an error here, on any machine. Code that asks for
the device takes the way of what is not the CPU. Not seen: a tensor that is made there of the host's
numbers (`torch.tensor(..., device=...)`), which no line of a step does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.fewshot import METHODS
from hypergrad.guards import Deferred, deferred
from metalearn.backbones import Backbone, Conv4, ResNet12
from metalearn.config.choices import Normalisation
from metalearn.data import Pool
from metalearn.methods import LinearHeads, Method, Model
from metalearn.methods.lower import Lower, direct, paper
from metalearn.methods.overrides import adjusted, numbers
from metalearn.methods.presets import PRESETS
from metalearn.tasks.episodes import Sampler, chunked
from metalearn.tasks.stream import drawn
from metalearn.training.certificates import Certificates
from metalearn.training.step import upper_step
from tests.metalearn.operations import Operations

META = torch.device("meta")
LOOKING = ("memory-reduced-exact",)  # solvers with a tolerance, which look whether they are done
TASKS = 2
COPIES = ("copy_", "_to_copy")


def named(name: str) -> Method:
    """A preset's method; two steps of each level where it takes a number of them."""
    if name == "woodbury":
        return LinearHeads(lower=Lower(by=paper(steps=2).by, adjoint=direct()), l2=0.1)
    found = PRESETS[name].method
    own = numbers(found)
    return adjusted(
        found,
        lower_steps=None if own.K is None else 2,
        adjoint_steps=None if own.N is None else 2,
    )


class Travel(Operations):
    """Counts copies from one device to another that the host would wait for."""

    def __init__(self) -> None:
        super().__init__(self._count)
        self.waited: Counter[str] = Counter()

    def _count(
        self, name: str, args: tuple[Any, ...], keywords: dict[str, Any], answer: Any
    ) -> None:
        where = {
            leaf.device.type
            for leaf in tree_leaves((args, keywords, answer))
            # a number of the host's may be an argument of anything: it goes with the launch
            if isinstance(leaf, Tensor) and (leaf.ndim or name in COPIES)
        }
        # aten::copy_ takes non_blocking third
        if len(where) > 1 and not (keywords.get("non_blocking") or args[2:3] == (True,)):
            self.waited[name] += 1


@pytest.fixture(autouse=True, scope="module")
def statistics() -> Iterator[None]:
    """Shapes of the one operation in use here that torch does not know on this device."""
    library = torch.library.Library("aten", "IMPL", "Meta")

    def known(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape[1]), x.new_empty(x.shape[1])

    library.impl("batch_norm_update_stats", known)
    yield
    library._destroy()


class Unread(Deferred):
    """Checks that are noted as ever. At the end of a step the host looks once: not here."""

    def __init__(self) -> None:
        super().__init__()
        self.noted = 0

    def settle(self) -> None:
        self.noted += len(self._pending)
        self._pending.clear()


def take(
    method: Method,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    backbone: Backbone | None = None,
    *,
    streamed: bool = False,
) -> tuple[Model, Unread, Travel]:
    body = Conv4(filters=8, channels=1, size=28) if backbone is None else backbone
    assert isinstance(body, nn.Module)
    own = method.variables(features=body.features, way=3, generator=None)
    model = Model(body, own, streamed=streamed).to(META)
    optimiser = torch.optim.Adam(model.parameters())
    certificates = Certificates(steps=2, tasks=TASKS, fixed_steps=True, device=META)
    sampler = Sampler(pool=pool.to(META), way=3, shot=2, query=1, seed=0)
    checks = Unread()
    monkeypatch.setattr("hypergrad.guards.Deferred", lambda: checks)
    with Travel() as travel, deferred():
        for tasks in (1, TASKS):  # the second with the optimiser's state, and in chunks
            chunks = drawn(sampler, chunked(range(tasks), 1))
            upper_step(method, model, optimiser, chunks, tasks=tasks, watch=certificates)
    return model, checks, travel


@pytest.mark.parametrize("name", [*(name for name in METHODS if name not in LOOKING), "woodbury"])
def test_a_step_reads_no_value(
    name: str, train_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, checks, travel = take(named(name), train_pool, monkeypatch)
    assert checks.noted or name == "protonet"
    assert not travel.waited
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.device == META


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("of", ["group", "stored", "resnet"])
def test_nor_do_other_backbones(
    of: str, streamed: bool, train_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if of == "resnet":
        backbone: Backbone = ResNet12(
            filters=(4, 4, 8, 8), channels=1, size=28, block=1, recompute=not streamed
        )
    else:
        mode: Normalisation = "group" if of == "group" else "stored"
        backbone = Conv4(filters=8, channels=1, size=28, normalisation=mode)
    _, _, travel = take(
        named("memory-reduced"), train_pool, monkeypatch, backbone, streamed=streamed
    )
    assert not travel.waited


@pytest.mark.parametrize("name", LOOKING)
def test_a_solver_with_a_tolerance_looks(
    name: str, train_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="item.. cannot be called on meta tensors"):
        take(named(name), train_pool, monkeypatch)


def test_the_copies_are_seen() -> None:
    here, there = torch.zeros(2), torch.zeros(2, device=META)
    with Travel() as travel:
        there.copy_(here, non_blocking=True)
        here.to(META, non_blocking=True)
    assert not travel.waited
    with Travel() as travel:
        there.copy_(here)
        here.to(META)
        here[0].to(META)
    assert travel.waited == {"copy_": 1, "_to_copy": 2}
