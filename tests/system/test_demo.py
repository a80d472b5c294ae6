"""The demo keeps its word: a table at the end, and nothing left behind, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .running import DEADLINE_SECONDS, living, wait_until

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("airflow")]


@dataclass(frozen=True)
class Demo:
    """The demo as a process of its own.

    :param folder: where it makes its temporary folders.
    :param marker: a variable that all its processes inherit.
    """

    process: subprocess.Popen[str]
    folder: Path
    marker: str
    output: Path

    def said(self) -> str:
        """Give everything that it has said."""
        return self.output.read_text()

    def left(self) -> tuple[set[int], list[Path]]:
        """Give the processes and the files that are there."""
        return living(self.folder, self.marker), list(self.folder.iterdir())


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Start the demo."""
    folder, output, name, value = tmp_path / "temporary", tmp_path / "output", "DEMO_TEST", str(uuid.uuid4())
    folder.mkdir()
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow_serving_reload.demo", "--no-stay"],
            env={**os.environ, "TMPDIR": str(folder), name: value},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    with process:
        try:
            yield Demo(process, folder, f"{name}={value}", output)
        finally:
            process.kill()


def test_demo_serves_a_new_model(demo: Demo) -> None:
    """The demo exits with 0 after a table that says what was served, and leaves neither process nor file."""
    status = demo.process.wait(DEADLINE_SECONDS)
    said = demo.said()
    assert status == 0, said
    rows = dict(re.findall(r"^\| (.*?) +\| (.*?) +\|$", said, re.MULTILINE))
    assert rows["version before"] == "the initial uci_housing_model"
    assert rows["version after"] == "demo-1"
    assert rows["release"].endswith("-demo-1")
    assert rows["new model served"] == "yes"
    assert rows["price before"] != rows["price after"]
    assert float(rows["seconds from donefile to served"]) > 0
    assert int(rows["requests sent"]) > 0
    assert rows["requests failed"] == "0"
    assert rows["answers that mix two models"] == "0"
    assert demo.left() == (set(), [])


@pytest.mark.parametrize("moment", ["Starting Airflow", "The model is uploaded"])
def test_interrupted_demo_leaves_nothing(demo: Demo, moment: str) -> None:
    """Interrupted in the middle, the demo ends all that it has started and removes all that it has written."""
    wait_until(lambda: moment in demo.said() or demo.process.poll() is not None, f"the demo saying {moment!r}")
    assert demo.process.poll() is None, demo.said()
    assert len(living(demo.folder, demo.marker)) > 4, "the demo, a store, a model server and their guardians"
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(DEADLINE_SECONDS) == 130, demo.said()
    assert demo.said().splitlines()[-1] == "Interrupted; everything is stopped."
    assert demo.left() == (set(), [])
