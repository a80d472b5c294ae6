"""Starts what is measured in processes of their own, watches them, and shows the figures as rows of a table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.bench.watching import Watch, disk_use
from tests.stores import CONN_ID, Way

REPOSITORY = Path(__file__).parents[2]
MIB = 1 << 20

LOOK_SECONDS = 0.02
"""Time between two looks at a task; what comes and goes in between is not seen."""

MODEL = "model.tar"
UNPACKED = "trained"


class TaskStuckError(Exception):
    """A task did not end by itself."""


class Workplace:
    """The serving folder, and whatever else a task may write to, in one folder that is watched.

    :param folder: new folder for them.
    :ivar serving: the server's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.serving = folder / "serving"
        for below in (self.serving, folder / "temporary", folder / "airflow"):
            below.mkdir(parents=True)

    def upload(self, way: Way, model: Path, name: str = MODEL) -> dict[str, Any]:
        """Upload a model.

        :param model: it, packed or as a folder.
        :param name: of it in the store.
        """
        remote = {**_remote(way), "remote_model_name": name}
        return self._run(way, "upload", {**remote, "local_model_path": str(model)}, 3600)

    def reload(
        self, way: Way, seconds: float = 3600, *, watched: bool = True, profile: bool = False, **others: Any
    ) -> dict[str, Any]:
        """Deliver the model.

        :param seconds: how long that may take.
        :param watched: look at its disk meanwhile, which takes time of its own where files are many.
        :param profile: tell where the time goes, which takes time of its own as well.
        :param others: arguments of the operator in the place of the usual ones.
        """
        local = {"local_path": str(self.serving), "local_model_name": "model", "unpacked_filename": UNPACKED}
        arguments = {**_remote(way), **local, **others}
        return self._run(way, "reload", arguments, seconds, watched=watched, profile=profile)

    def poll(self, way: Way, count: int) -> dict[str, Any]:
        """Look at the donefile again and again."""
        return self._run(way, "poll", {"conn_id": CONN_ID, "remote_path": way.remote_path, "count": count}, 3600)

    def _run(
        self,
        way: Way,
        verb: str,
        arguments: dict[str, Any],
        seconds: float,
        *,
        watched: bool = True,
        profile: bool = False,
    ) -> dict[str, Any]:
        """Run the program of tasks; adds `disk`, beyond what was there, and `child_memory`, as `Watch` has them."""
        outcome = self.folder / "outcome.json"
        outcome.unlink(missing_ok=True)
        order = json.dumps({"verb": verb, "arguments": arguments, "profile": profile})
        command = [*way.prefix, sys.executable, "-m", f"{__package__}.task", order, str(outcome)]
        # what is still to be written of what went before would be in the way
        os.sync()
        before = disk_use(self.folder)
        with (self.folder / "task.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, env=self._environment(way), stdout=log, stderr=log, start_new_session=True
            )
            watch = Watch(self.folder, process.pid, disk=before)
            try:
                deadline = time.monotonic() + seconds
                while process.poll() is None:
                    if time.monotonic() > deadline:
                        raise TaskStuckError(f"it was killed after {seconds:g} s")
                    if watched:
                        watch.look()
                    time.sleep(LOOK_SECONDS)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not outcome.exists():
            raise RuntimeError(f"the task failed to {verb}:\n{(self.folder / 'task.log').read_text()}")
        told: dict[str, Any] = json.loads(outcome.read_text())
        return {**told, "disk": watch.disk - before, "child_memory": watch.child_memory}

    def _environment(self, way: Way) -> dict[str, str]:
        # a proxy between two ends of this host would be measured too
        inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        home = {"AIRFLOW_HOME": str(self.folder / "airflow"), "TMPDIR": str(self.folder / "temporary")}
        return {**inherited, **home, **way.variables}


def _remote(way: Way) -> dict[str, Any]:
    return {"conn_id": CONN_ID, "remote_path": way.remote_path, "remote_model_name": MODEL}


def returned(told: dict[str, Any]) -> dict[str, Any]:
    """Give what a task returned that must not fail."""
    if "fault" in told:
        raise RuntimeError(f"{told['fault']['kind']}: {told['fault']['words']}")
    result: dict[str, Any] = told["returned"]
    return result
