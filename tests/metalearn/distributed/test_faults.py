"""Each fault ends in a message that says what to do, on all ranks, with the last state intact."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from metalearn.data.copies import Copies
from metalearn.data.published import SPLITS
from metalearn.data.reading import write_arrays
from metalearn.data.source import Part
from metalearn.data.store import described_arrays, keep
from metalearn.distributed import TIMEOUT_VARIABLE
from metalearn.runs.folder import Run
from metalearn.training import checkpoint
from tests.metalearn.distributed import broken
from tests.metalearn.distributed.ranks import TINY, Ended, ranks

SMALL = ["--steps=6", "--validate-every=6", "--method=protonet", *TINY]
BROKEN_AT = 4  # a step after two checkpoints' worth of them: the last is of step 2


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users can read: pytest's own lie behind a closed door."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


def words(ended: list[Ended]) -> str:
    return " ".join(" ".join(rank.said.split()) for rank in ended)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    ended = ranks(2, broken.nothing_broken, f"--run={folder / 'run'}", *SMALL, folder=folder)
    assert [rank.code for rank in ended] == [0, 0], ended
    # one rank alone says and writes things
    assert "test accuracy" in ended[0].said
    assert ended[1].said == ""
    assert broken.events(folder / "run") == ["started", "finished"]
    assert len(Run(folder / "run").metrics()) == 1
    assert Run(folder / "run").result().device.startswith("2 ranks, each cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def sound() -> list[dict[str, torch.Tensor]]:
    """The state after two steps, once a run went on from it."""
    return []


def goes_on(run: Path, whole: Path, folder: Path, sound: list[dict[str, torch.Tensor]]) -> None:
    """The last checkpoint is whole, and leads to the weights of the run without a fault.

    All faults come after the same two steps. The first test goes on from there, and the others
    find the same state.
    """
    tensors, progress = checkpoint.load(run / "checkpoint.safetensors")
    assert progress.step == 2
    if sound:
        assert tensors.keys() == sound[0].keys()
        assert all(torch.equal(value, sound[0][name]) for name, value in tensors.items())
        return
    ended = ranks(2, broken.nothing_broken, f"--resume={run}", folder=folder)
    assert [rank.code for rank in ended] == [0, 0], ended
    found, expected = Run(run).weights(), Run(whole).weights()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    sound.append(tensors)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            broken.nan,
            "NotFiniteError: the loss is nan: lower the learning rate. One by one, with the "
            "weights as they are, training episodes 7 to 7 are finite.",
        ),
        (broken.out_of_memory, "ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB"),
        (
            broken.too_large,
            "start more ranks and continue from the last checkpoint, or begin a new run with",
        ),
    ],
)
def test_what_one_rank_raises_is_raised_on_all(
    fault: Callable[..., None],
    message: str,
    whole: Path,
    tmp_path: Path,
    sound: list[dict[str, torch.Tensor]],
) -> None:
    run = tmp_path / "run"
    ended = ranks(2, fault, BROKEN_AT, 1, f"--run={run}", *SMALL, folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert f"RankError: rank 1 of 2 failed at upper step {BROKEN_AT}: " in words(ended)
    assert message in words(ended)
    assert ended[1].said == ""  # what all know is said once
    assert broken.events(run) == ["started", "failed"]
    failed, progress = checkpoint.load(run / "failure.safetensors")
    assert progress.step == BROKEN_AT - 1
    assert all(bool(value.isfinite().all()) for name, value in failed.items() if "model" in name)
    goes_on(run, whole, tmp_path, sound)


def test_what_all_ranks_see_is_said_once_and_one_of_them_measures(tmp_path: Path) -> None:
    run, noted = tmp_path / "run", tmp_path / "noted"
    settings = [*SMALL, "--method=memory-reduced", "--validate-every=2", "--hypergradient-error"]
    ended = ranks(2, broken.nan_residual, 4, noted, f"--run={run}", *settings, folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "NotFiniteError: the residual is nan at upper step 4, of training episodes [7]" in words(
        ended
    )
    assert ended[1].said == ""
    # the error was measured at the validation before, on the leading rank alone
    assert noted.read_text() == "rank 0\n"
    (line,) = Run(run).metrics()
    assert line["step"] == 2
    assert line["hypergradient_error"] > 0
    # what it refuses stops all ranks
    ended = ranks(2, broken.nan_error, f"--resume={run}", folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert (
        "RankError: rank 0 of 2 failed at the hypergradient's error: NotFiniteError: the "
        "hypergradient's distance from the exact one is nan"
    ) in words(ended)
    assert ended[1].said == ""
    assert broken.events(run) == ["started", "failed", "resumed", "failed"]
    assert Run(run).metrics() == [line]


def test_a_hung_rank_is_named_with_its_step(
    whole: Path, tmp_path: Path, sound: list[dict[str, torch.Tensor]]
) -> None:
    run = tmp_path / "run"
    ended = ranks(
        2,
        broken.hung,
        BROKEN_AT,
        1,
        f"--run={run}",
        *SMALL,
        folder=tmp_path,
        until=0,
        environment={TIMEOUT_VARIABLE: "15"},
    )
    assert ended[0].code == 1, ended
    said = words(ended)
    assert (
        f"LostRankError: ranks [1] of 2 did not come to upper step {BROKEN_AT} within 15 s" in said
    )
    assert f"rank 1 was last seen at the hypergradients of upper step {BROKEN_AT - 1}" in said
    goes_on(run, whole, tmp_path, sound)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (broken.full_disk, "No space left on device"),
        (broken.file_limit, "File too large"),
        (broken.read_only, "Permission denied"),
    ],
)
def test_a_folder_that_takes_no_more_stops_all_ranks(
    fault: Callable[..., None],
    message: str,
    whole: Path,
    tmp_path: Path,
    reachable: Path,
    sound: list[dict[str, torch.Tensor]],
) -> None:
    run = reachable / "run"
    ended = ranks(2, fault, BROKEN_AT, 0, f"--run={run}", *SMALL, folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "rank 0 of 2 failed at saving the checkpoint: RunError:" in words(ended)
    assert message in words(ended)
    assert f"then continue with --resume {run}" in words(ended)
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []
    run.chmod(0o755)
    goes_on(run, whole, tmp_path, sound)


def test_a_restart_finds_a_finished_run_finished(whole: Path, tmp_path: Path) -> None:
    """A rank that dies once the result is written makes torchrun start all of them again."""
    again = {"TORCHELASTIC_RESTART_COUNT": "1"}
    ended = ranks(2, broken.nothing_broken, f"--resume={whole}", folder=tmp_path, environment=again)
    assert [rank.code for rank in ended] == [0, 0], ended
    assert "is finished: there is nothing left to do" in words(ended)
    assert ended[1].said == ""
    assert broken.events(whole) == ["started", "finished"]


def test_a_folder_that_is_read_only_is_refused_at_the_start(
    tmp_path: Path, reachable: Path
) -> None:
    locked = reachable / "locked"
    locked.mkdir()
    ended = ranks(2, broken.read_only, 0, 0, f"--run={locked / 'run'}", *SMALL, folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "rank 0 of 2 failed at making the run folder: RunError:" in words(ended)
    assert "can't be written to" in words(ended)
    assert "give another --run" in words(ended)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_damaged_checkpoint_stops_all_ranks(kept: int, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "result.json").unlink()
    content = (run / "checkpoint.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(content[:kept])
    ended = ranks(2, broken.nothing_broken, f"--resume={run}", folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "failed at reading the checkpoint: RunError:" in words(ended)
    assert "is unreadable or damaged" in words(ended)


def test_ranks_of_other_settings_are_refused(tmp_path: Path) -> None:
    ended = ranks(2, broken.other_settings, tmp_path / "run", *SMALL, folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "ranks [1] of 2 have another settings, data, code or step than rank 0" in words(ended)


def test_more_ranks_than_tasks_are_refused(tmp_path: Path) -> None:
    ended = ranks(3, broken.nothing_broken, f"--run={tmp_path / 'run'}", *SMALL, folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1, 1], ended
    assert "3 ranks were started for 2 tasks of an upper step: start at most 2" in words(ended)


def _prepared(root: Path) -> Path:
    """A small set in the place of one that is published."""
    rng = np.random.default_rng(0)

    def part(name: str) -> Part:
        images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        return Part(name, len(images), lambda: images)

    splits = {s: [part(f"{s}-{i}") for i in range(4)] for s in SPLITS}
    sizes = {s: [(each.name, each.count) for each in parts] for s, parts in splits.items()}
    arrays = root / "arrays"
    arrays.mkdir(parents=True)
    files = write_arrays(arrays, splits, Copies(), side=32, channels=3)
    about = described_arrays(sizes, side=32, channels=3)
    keep(arrays, root / "cifar-fs", {**about, "files": files}, remarks="")
    return root / "cifar-fs" / "train.images.npy"


def test_data_that_change_under_a_run_leave_no_result(tmp_path: Path) -> None:
    images = _prepared(tmp_path / "data")
    run, data = tmp_path / "run", ["--data=cifar-fs", f"--data-root={tmp_path / 'data'}"]
    before = images.read_bytes()
    ended = ranks(
        2, broken.changed_data, 3, 0, images, f"--run={run}", *SMALL, *data, folder=tmp_path
    )
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "train.images.npy was changed: prepare the data set again" in words(ended)
    assert not (run / "result.json").exists()
    ended = ranks(2, broken.nothing_broken, f"--resume={run}", folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "train.images.npy was changed: prepare the data set again" in words(ended)
    images.write_bytes(before)
    ended = ranks(2, broken.nothing_broken, f"--resume={run}", folder=tmp_path)
    assert [rank.code for rank in ended] == [0, 0], ended


def test_weights_that_differ_are_not_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = ranks(2, broken.other_weights, BROKEN_AT, 1, f"--run={run}", *SMALL, folder=tmp_path)
    assert [rank.code for rank in ended] == [1, 1], ended
    assert "ranks [1] of 2 have another weights than rank 0" in words(ended)
    _, progress = checkpoint.load(run / "checkpoint.safetensors")
    assert progress.step == 2
