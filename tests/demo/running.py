"""The demo's servers as processes of their own, and a served model as its publisher and its clients see it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

# Far beyond what anything here takes: it only turns a hang into a failure.
DEADLINE_SECONDS = 60


def wait_until(condition: Callable[[], object], expected: str) -> None:
    """Return once the condition is true; fail, saying what was expected, if it never is."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never seen within {DEADLINE_SECONDS} s: {expected}")
        time.sleep(0.01)


@dataclass(frozen=True)
class ServerProcess:
    """A server of the demo that runs and answers."""

    process: subprocess.Popen[str]
    url: str
    port_file: Path

    def end(self) -> int:
        """Ask the server to end and return its exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE_SECONDS)


def command(module: str, *arguments: str | Path) -> list[str]:
    """Return the command line of a module of the demo."""
    return [sys.executable, "-m", f"airflow_serving_reload.demo.{module}", *map(str, arguments)]


class Servers:
    """Starts modules of the demo on ports that the kernel gives, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def start(self, module: str, *arguments: str | Path, environment: dict[str, str] | None = None) -> ServerProcess:
        """Start a module and wait until it has written its port file."""
        number = len(self._started)
        port_file = self._folder / f"port-{number}"
        with (self._folder / f"output-{number}").open("w+b") as output:
            process = subprocess.Popen(
                [*command(module, *arguments), "--port", "0", "--port-file", str(port_file)],
                cwd=self._folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._started.append(process)
            wait_until(lambda: port_file.exists() or process.poll() is not None, f"{module} listening")
            if not port_file.exists():
                output.seek(0)
                pytest.fail(f"{module} ended with {process.returncode}: {output.read().decode()}")
        return ServerProcess(process, f"http://127.0.0.1:{int(port_file.read_text())}", port_file)

    def end_all(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.wait(DEADLINE_SECONDS)


class LiveModel:
    """A served model folder, published as releases behind a symlink, and the server's view of it."""

    def __init__(self, folder: Path, trained: dict[str, Path]) -> None:
        self.path = folder / "model"
        self.timestamp_file = self.path / "fluid_time_file"
        self._folder = folder
        self._trained = trained
        self.url = ""
        self._releases = 0

    def serve(self, servers: Servers, *, reload_interval: float) -> None:
        """Start a model server on the model, its log beside it."""
        # the C++ server puts the variable in front of ./log as it stands
        log_path = {"SERVING_LOG_PATH": f"{self._folder}/"}
        arguments = ("--model", self.path, "--reload-interval", str(reload_interval))
        self.url = servers.start("model_server", *arguments, environment=log_path).url + "/predict"

    def publish(self, model: str, *, timestamp: float) -> str:
        """Make a model live by one rename, its timestamp file included, and return the name of the release."""
        self._releases += 1
        release = f"{model}-release-{self._releases}"
        publish_release(self._trained[model], self._folder / release, self.path, timestamp=timestamp)
        return release

    def touch(self, timestamp: float) -> None:
        """Set the mtime of the timestamp file, in seconds since the epoch."""
        self.timestamp_file.touch()
        set_mtime(self.timestamp_file, timestamp)

    def answer(self) -> dict[str, object]:
        """Ask for the price of the sample house."""
        response = requests.get(self.url, timeout=DEADLINE_SECONDS)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def serves(self, release: str) -> bool:
        """Tell whether a release answers."""
        return bool(requests.get(self.url, timeout=DEADLINE_SECONDS).json().get("release") == release)

    def post(self, body: str | bytes) -> requests.Response:
        """Ask for the price of any house."""
        return requests.post(self.url, data=body, timeout=DEADLINE_SECONDS)

    def log_lines(self) -> list[str]:
        """Return the server's log."""
        return (self._folder / "log" / "serving.INFO").read_text().splitlines()

    def log_messages(self) -> list[str]:
        """Return the severity and message of every line of the server's log, thread numbers left out."""
        lines = [re.fullmatch(r"([IWE])\d{4} [^\]]*\] (.*)", line) for line in self.log_lines()]
        return [re.sub(r"\btid:\d+|(?<=^. )\[\d+\]", "TID", f"{line[1]} {line[2]}") for line in lines if line]

    def wait_for_passes(self, number: int) -> None:
        """Wait until the server has looked at the timestamp file that many times from now on."""
        finished = self._finished_passes()
        # the pass under way now may have looked before
        wait_until(lambda: self._finished_passes() > finished + number, f"{number} more passes")

    def wait_for_log(self, message: str, *, after: int) -> None:
        """Wait until the log holds a message behind the given number of messages."""
        wait_until(lambda: message in self.log_messages()[after:], f"{message!r} in the log")

    def _finished_passes(self) -> int:
        return self.log_messages().count("I Finish reload 1 workflow(s)")


def publish_release(model: Path, release: Path, live: Path, *, timestamp: float) -> None:
    """Copy a model to a release with a timestamp file, and rename the symlink ``live`` over to it."""
    shutil.copytree(model, release)
    (release / "fluid_time_file").touch()
    set_mtime(release / "fluid_time_file", timestamp)
    link = live.with_name("next")
    link.symlink_to(release.name)
    link.replace(live)


def set_mtime(path: Path, timestamp: float) -> None:
    """Set the mtime of a file, in seconds since the epoch, to the millisecond."""
    nanoseconds = round(timestamp * 1000) * 1_000_000
    os.utime(path, ns=(nanoseconds, nanoseconds))
