"""A run of seconds, and what a command that refuses says."""

import pytest

from metalearn.cli import main

SMALL = [
    "--steps=6",
    "--validate-every=2",
    "--validation-episodes=20",
    "--test-episodes=30",
    "--filters=8",
    "--tasks-per-step=2",
    "--train.way=5",
    "--threads=1",
]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code not in (0, None)
    return " ".join(capsys.readouterr().err.split())
