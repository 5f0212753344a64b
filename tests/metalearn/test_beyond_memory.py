"""Prepared images are mapped, not read: a set costs the memory of what is drawn."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from benchmarks import beyond_memory
from metalearn.data.complete import Sizes
from metalearn.data.store import Store, described_arrays

SIZE = 2**29


def _train(root: Path, answers: Any) -> None:
    honest = Store.split

    def copying(store: Store, name: Any) -> Any:
        stored = honest(store, name)
        return type(stored)(stored.split, stored.images.copy(), stored.counts, stored.names)

    try:
        for split in (honest, copying):  # the second is a planted bug: images are read, not mapped
            with mock.patch.object(Store, "split", split):
                before = beyond_memory.resident()["RssAnon"]
                found = beyond_memory.trained(root, steps=5)
                answers.put((found.anonymous - before, found))
    except BaseException as error:
        answers.put(repr(error))  # so that nobody waits for more
        raise


def _grown(root: Path) -> list[tuple[int, beyond_memory.Trained]]:
    """Bytes of private memory that training took, mapped and then copied, in a process apart."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_train, args=(root, answers))
    process.start()
    try:
        found = []
        for _ in range(2):
            answer = answers.get(timeout=120)
            assert not isinstance(answer, str), answer
            found.append(answer)
        process.join(30)
    finally:
        process.kill()
        process.join()
    return found


def test_a_set_larger_than_memory_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shape = (2, memory // (3 * 84 * 84), 3, 84, 84)  # twice as much
    counts = [shape[1]] * 2
    np.save(tmp_path / "train.counts.npy", np.array(counts))
    with (tmp_path / "train.images.npy").open("wb") as file:
        header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + math.prod(shape))
    sizes: Sizes = {"train": [("a", shape[1]), ("b", shape[1])]}
    store = Store(tmp_path, described_arrays(sizes, side=84, channels=3))
    honest = np.load

    def refused(path: Path, mode: Any = None, **settings: Any) -> Any:
        if mode == "c":  # as by a kernel that counts it
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return honest(path, mode, **settings)

    monkeypatch.setattr(np, "load", refused)
    pool = store.split("train").pool()
    assert pool.images.nbytes > 1.9 * memory
    assert not pool.gather(np.array([0, 2 * shape[1] - 1])).any()


def test_a_sparse_set_takes_neither_disk_nor_memory(tmp_path: Path) -> None:
    beyond_memory.sparse_store(tmp_path / "miniimagenet", SIZE)
    (grown, found), (copied, _) = _grown(tmp_path)
    assert found.bytes > 0.99 * SIZE
    assert found.on_disk < SIZE / 20
    assert grown < SIZE / 2  # the model, its activations, torch's own: 150 MB, whatever the set
    # what the check is worth: a copy is noticed
    assert copied > SIZE
