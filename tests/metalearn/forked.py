"""`metalearn` in processes of its own that are forks of a server, which has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

# A server that has imported everything once: each process is then a fork of it, at no cost.
# Optimisers of torch import the last module at their first step.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["metalearn.training.loop", "metalearn.cli.commands", "torch._dynamo"]
)


class Forked:
    """A command in a process: as much of `subprocess.Popen` as the tests of kills need."""

    def __init__(self, *arguments: str, said: Path) -> None:
        self._said = said
        self._process = SERVER.Process(target=_command, args=(arguments, said, dict(os.environ)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative after a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> None:
        """Until it has ended, or so long."""
        self._process.join(seconds)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired("metalearn", seconds or 0.0)

    def send_signal(self, number: int) -> None:
        """Send it, if the process is still there."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[None, bytes]:
        """Wait for its end; what it said on standard output and error."""
        self.wait(timeout)
        return None, self._said.read_bytes() if self._said.exists() else b""


def _command(arguments: tuple[str, ...], said: Path, environment: dict[str, str]) -> None:
    import torch

    from metalearn.cli import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    with said.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    main(list(arguments))
