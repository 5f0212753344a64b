"""How commands begin and end: help at once, a closed pipe, a missing extra, the version."""

import dataclasses
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys

import pytest

import hypergrad
import metalearn.cli
from metalearn.cli import main
from metalearn.config.train import TrainConfig, to_json

COMMANDS = ["train", "test", "evaluate", "compare", "measure", "figure", "table", "prepare"]

HELP = """
import sys
from metalearn.cli import main
for command in sys.argv[1:]:
    try:
        main([*command.split(), "--help"])
    except SystemExit as exit_:
        assert exit_.code == 0, exit_.code
    heavy = {"torch", "numpy", "scipy", "matplotlib", "yaml", "hypergrad"} & sys.modules.keys()
    assert not heavy, (command, heavy)
"""


def test_help_imports_nothing_heavy() -> None:
    commands = ["", *COMMANDS, "figure accuracy", "table memory"]
    done = subprocess.run([sys.executable, "-c", HELP, *commands], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: metalearn") == len(commands)


def test_help_takes_little_processor_time() -> None:
    """Less than 0.6 s above an interpreter that does nothing; importing torch alone takes more."""

    def seconds(*arguments: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        return user + after.children_system - before.children_system

    command = ("-m", "metalearn", "train", "--help")
    assert min(seconds(*command) - seconds("-c", "pass") for _ in range(3)) < 0.6


def test_help_shows_the_settings_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--help"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    titles = [part.name for part in dataclasses.fields(TrainConfig)]
    assert re.findall(r"^\W+(\w+) options\W+$", said, re.MULTILINE) == titles
    # the options are the settings of a file, and of a run's config.json
    settings = to_json(TrainConfig())
    shapes = {f"{name}.{part}" for name in ("train", "test") for part in settings.pop(name)}
    names = {name.replace("_", "-") for name in settings.keys() | shapes}
    assert set(re.findall(r"--(?!no-|help)([a-z0-9.-]+)(?= [A-Z{]|,)", said)) >= names
    assert "--settings." not in said


def test_the_version_is_the_librarys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert not exit_.value.code
    assert capsys.readouterr().out == f"metalearn {hypergrad.__version__}\n"
    assert hypergrad.__version__ == importlib.metadata.version("hypergradients")


def test_the_entry_stays_a_function_when_all_its_modules_are_imported() -> None:
    # a module of its name would take its place in the package once a command had run
    for module in pkgutil.iter_modules(metalearn.cli.__path__, "metalearn.cli."):
        importlib.import_module(module.name)
    assert metalearn.cli.main is main
    assert callable(main)


WITHOUT = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tyro", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
from metalearn.cli import main
main(["train", "--help"])
"""


def test_without_the_extra_a_command_names_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "is not installed: install the extra hypergradients[train] (pip install" in line


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "--dry-run", "--filters=4"]])
def test_a_closed_pipe_ends_quietly(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)  # as `head` does when it has seen enough
    command = [sys.executable, "-m", "metalearn", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


POLICY = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":  # which loads OpenMP
            print(os.environ["OMP_WAIT_POLICY"], flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
from metalearn.cli import main
main(["--version"])
"""


def test_threads_sleep_while_they_wait() -> None:
    # OpenMP reads its policy when torch loads it, so the setting must come first.
    bare = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", POLICY],
            capture_output=True,
            text=True,
            check=True,
            env=bare | given,
        )
        assert done.stdout == f"{expected}\n"
