"""No code from files, no shell, and nothing written outside a run's folder; see SECURITY.md."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from metalearn.cli import main
from metalearn.config.train import TrainConfig, to_json
from metalearn.data.published import DatasetName, published

ROOT = Path(__file__).parents[2]
PACKAGES = ("hypergrad", "metalearn", "verification", "benchmarks", "examples")
# Calls that run what a file or a text says, by the last parts of their names.
FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "extractall",
    "all_gather_object",  # pickles
    "broadcast_object_list",
}
# Planting bugs in this repository's own functions is done by compiling changed copies of them.
EXCEPTIONS = {
    "verification/subjects/planting.py": {"exec", "compile"},
    # the lines of docs/coming-from.md, which are kept beside it and are part of this repository
    "benchmarks/behaviour/asked.py": {"exec"},
    "benchmarks/behaviour/beyond.py": {"eval", "exec"},
    "benchmarks/behaviour/beside.py": {"eval", "exec", "compile"},
}


def found(text: str, path: str) -> set[str]:
    """The forbidden calls of a file."""
    bad = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        # a method called eval or compile is a module's or a regular expression's
        short = name if "." not in name else ".".join(name.split(".")[-2:])
        if short in FORBIDDEN or name.rpartition(".")[2] in FORBIDDEN - {
            "eval",
            "exec",
            "compile",
        }:
            bad.add(short)
        only = given.get("weights_only")
        if name == "torch.load" and not (isinstance(only, ast.Constant) and only.value is True):
            bad.add("torch.load")
        pickled = given.get("allow_pickle")
        if pickled is not None and not (isinstance(pickled, ast.Constant) and not pickled.value):
            bad.add("allow_pickle")
        shell = given.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            bad.add("shell")
    return bad - EXCEPTIONS.get(path, set())


def sources() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_no_file_runs_what_another_says() -> None:
    files = dict(sources())
    assert len(files) > 100
    assert {path: bad for path, text in files.items() if (bad := found(text, path))} == {}


def test_exceptions_are_still_needed() -> None:
    for path in EXCEPTIONS:
        assert found((ROOT / path).read_text(encoding="utf-8"), "elsewhere"), path


@pytest.mark.parametrize(
    "planted",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "pickle.load(file)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "subprocess.run(line, shell=flag)",
        "os.system(line)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "archive.extractall(folder)",
        "dist.all_gather_object(found, value)",
    ],
)
def test_a_planted_call_is_found(planted: str) -> None:
    assert found(planted, "metalearn/somewhere.py")


@pytest.mark.parametrize(
    "innocent",
    [
        "model.eval()",
        "re.compile(pattern)",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
    ],
)
def test_what_is_innocent_is_not(innocent: str) -> None:
    assert found(innocent, "metalearn/somewhere.py") == set()


SMALL = TrainConfig().replace(
    steps=2,
    validate_every=2,
    checkpoint_every=1,
    validation_episodes=2,
    test_episodes=2,
    filters=4,
    method="protonet",
    tasks_per_step=1,
    threads=1,
    device="cpu",
)


def test_a_stranger_s_settings_write_inside_their_folder_only(tmp_path: Path) -> None:
    """Going on with a run: neither the folder that its settings name nor links lead outside."""
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    run.mkdir()
    precious = home / "precious"
    precious.write_text("precious")
    settings = to_json(SMALL) | {"run": str(home / "elsewhere")}
    (run / "config.json").write_text(json.dumps(settings))
    for name in ("weights.safetensors", "result.json", "metrics.jsonl", "curves.png"):
        (run / name).symlink_to(precious)
    # not checkpoint.safetensors: what it points to would be read, and refused
    (run / "result.json").unlink()
    (run / "metrics.jsonl").unlink()
    main(["train", f"--resume={run}"])
    assert (run / "result.json").exists()
    assert [path.name for path in home.iterdir()] == ["precious"]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl"])
def test_a_file_that_is_added_to_is_no_link(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.write_text("")
    (run / "config.json").write_text(json.dumps(to_json(SMALL)))
    (run / name).symlink_to(precious)
    with pytest.raises(SystemExit) as exit_:
        main(["train", f"--resume={run}"])
    assert exit_.value.code == 1
    assert name in capsys.readouterr().err
    assert precious.read_text() == ""


def test_every_download_has_a_checksum() -> None:
    remotes = [r for name in get_args(DatasetName) for r in published(name).remotes]
    assert remotes
    for remote in remotes:
        # the algorithm is the publisher's
        assert re.fullmatch(r"(md5|sha256):[0-9a-f]{32,64}", remote.checksum), remote
