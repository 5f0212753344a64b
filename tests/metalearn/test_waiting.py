"""How often the host waits for a value of the device in an upper step, and that none is missed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from hypergrad import deferred
from hypergrad.errors import NotFiniteError
from metalearn.backbones import Conv4
from metalearn.data import Pool
from metalearn.methods import LinearHeads, Method, Model, ProtoNet, RidgeHeads
from metalearn.methods.lower import Lower, direct, exact, paper
from metalearn.tasks.episodes import Episodes, Sampler
from tests.metalearn.methods.subjects import accumulate_batch
from tests.metalearn.operations import Operations

WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "item"}
METHODS: dict[str, Method] = {
    "paper": LinearHeads(lower=paper(steps=3, adjoint_steps=3), l2=0.1),
    "woodbury": LinearHeads(lower=Lower(by=paper(steps=3).by, adjoint=direct()), l2=0.1),
    "r2d2": RidgeHeads(l2=0.1, sharpness=1.0),
    "protonet": ProtoNet(),
}


class Waits(Operations):
    """Counts the operations whose answer the host has to wait for."""

    def __init__(self) -> None:
        super().__init__(self._count)
        self.calls: Counter[str] = Counter()

    def _count(self, name: str, *_: object) -> None:
        self.calls[name] += name in WAITING


def subject(method: Method) -> Model:
    generator = torch.Generator().manual_seed(0)
    backbone = Conv4(filters=8, channels=1, size=28, generator=generator)
    own = method.variables(features=backbone.features, way=3, generator=generator)
    return Model(backbone, own)


def drawn(pool: Pool) -> Episodes:
    return Sampler(pool=pool, way=3, shot=1, query=1, seed=0).sample(0, 2)


@pytest.mark.parametrize("name", METHODS)
def test_the_host_looks_once_and_at_the_end(name: str, train_pool: Pool) -> None:
    method = METHODS[name]
    model, batch = subject(method), drawn(train_pool)
    with Waits() as within, deferred() as checks:
        accumulate_batch(method, model, batch, size=1)
        assert not within.calls.total()
        checks.settle()
    assert sum(within.calls.values()) == (0 if name == "protonet" else 1)
    with Waits() as whole:
        accumulate_batch(method, model, batch, size=1)
    assert sum(whole.calls.values()) == (0 if name == "protonet" else 1)


def test_solvers_with_a_tolerance_are_seen_to_look(train_pool: Pool) -> None:
    method = LinearHeads(lower=exact(), l2=0.1)
    with Waits() as waits:
        accumulate_batch(method, subject(method), drawn(train_pool))
    assert sum(waits.calls.values()) > 5


def test_what_is_not_finite_is_still_refused_before_a_step(train_pool: Pool) -> None:
    method = METHODS["paper"]
    model = subject(method)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="the lower objective of task 0 is not finite"):
        accumulate_batch(method, model, drawn(train_pool), size=1)
    with deferred() as checks:
        accumulate_batch(method, model, drawn(train_pool))
        with pytest.raises(NotFiniteError, match=r"of task 0 .* \(2 of 2 tasks\)"):
            checks.settle()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, whose waits are counted")
@pytest.mark.parametrize("name", ["paper", "woodbury", "r2d2"])
def test_cuda_agrees(name: str, train_pool: Pool) -> None:
    method, device = METHODS[name], torch.device("cuda")
    model, batch = subject(method).to(device), drawn(train_pool.to(device))
    accumulate_batch(method, model, batch)  # what is loaded at first use
    try:
        with deferred() as checks:
            torch.cuda.set_sync_debug_mode("error")
            accumulate_batch(method, model, batch, size=1)
            torch.cuda.set_sync_debug_mode("default")
            checks.settle()
    finally:
        torch.cuda.set_sync_debug_mode("default")
