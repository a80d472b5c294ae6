"""What Airflow adds from the donefile to the served model, beside `monitor.py`, and what imports and parsing cost."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from airflow_serving_reload.delivery.stores.http import HttpStore
from airflow_serving_reload.delivery.upload import upload
from airflow_serving_reload.demo.airflow_client import AirflowClient, DagRun
from airflow_serving_reload.demo.airflow_stack import AirflowStack
from airflow_serving_reload.demo.host import MODEL, Reader, ServingHost
from airflow_serving_reload.demo.processes import Processes
from tests.bench.figures import save, show
from tests.system.conftest import ARCHIVE, DAGS, TRAINING
from tests.system.monitor import shell_of_monitor

OWN_DAGS = Path(__file__).parent / "delivery_dags"
MONITOR = Path(__file__).parents[2] / ".venv-paddle-serving" / "bin" / "python"

WAYS = {"one_task": 1.0, "four_tasks": 1.0, "monitor": 10.0}
"""Who delivers, and the seconds between two of its looks: those of `monitor.py` are its default."""

STAGES = ("noticed", "run queued", "task queued", "task started", "served")
"""What is awaited one after the other; `noticed` is the event of the asset."""

PLAIN_DAG = """from airflow.sdk import task; task(dag=DAG("plain", schedule="@hourly"), task_id="it")(lambda: None)()"""
"""What parsing the simplest Dag with code of its own needs of Airflow."""

READ_DAG = (
    "loader = importlib.machinery.SourceFileLoader('dag', {file!r}); "
    "loader.exec_module(importlib.util.module_from_spec(importlib.util.spec_from_loader('dag', loader)))"
)

DEADLINE_SECONDS = 120.0

READER_PAUSE = 0.01
"""Seconds between two requests of a client, which would else take half the machine from what is measured."""


@dataclass
class Taken:
    """What several deliveries of one way took, and where the time went."""

    seconds: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)

    def add(self, moments: Sequence[float]) -> None:
        """Add one delivery.

        :param moments: when the donefile changed, then those of the stages as far as known, and when it was served.
        """
        self.seconds.append(moments[-1] - moments[0])
        for stage, begin, end in zip(STAGES, moments, moments[1:], strict=False):
            self.stages.setdefault(stage, []).append(end - begin)

    def figures(self) -> dict[str, Any]:
        """Give the medians."""
        return {
            "seconds": statistics.median(self.seconds),
            "range": [min(self.seconds), max(self.seconds)],
            "stages": {stage: statistics.median(took) for stage, took in self.stages.items()},
        }


@dataclass(frozen=True)
class Line:
    """A store, the server that what lies there is brought to, and a client of that.

    :param prices: trained models, each with the price by which its answers are known.
    """

    host: ServingHost
    reader: Reader
    prices: dict[str, float]

    def deliver(self, remote_path: str) -> tuple[float, float]:
        """Upload a model that is not served, and wait until it is.

        :return: when the donefile changed and when the model was served.
        """
        before = self.reader.last
        assert before is not None
        source, price = next(item for item in self.prices.items() if item[1] != before.price)
        with requests.Session() as session:
            session.trust_env = False
            upload(
                HttpStore(session, self.host.store_url), remote_path, Path(source), model=ARCHIVE, donefile="donefile"
            )
        answer = before
        while answer.price != price:
            found = self.reader.wait_for_another(answer, seconds=DEADLINE_SECONDS)
            assert found is not None, f"{remote_path} was not served within {DEADLINE_SECONDS:g} s"
            answer = found
        changed = (self.host.store_folder / remote_path.strip("/") / "donefile").stat().st_mtime
        return changed, self.reader.first_seen[answer]


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench airflow", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each way, in turns (default: %(default)s)")
    parser.add_argument("--imports", type=int, default=11, help="processes for each import (default: %(default)s)")
    parser.add_argument("--without-monitor", action="store_true", help="leave out monitor.py, which is slow")
    options = parser.parse_args(arguments)
    command = f'make bench BENCH="airflow {" ".join(arguments)}"'
    if options.imports:
        imports = measure_imports(options.imports)
        _show_imports(imports)
        save("imports", command, imports)
    if options.runs:
        ways = [way for way in WAYS if way != "monitor" or not options.without_monitor]
        delays = {way: taken.figures() for way, taken in measure_delays(ways, options.runs).items()}
        _show_delays(delays)
        save("airflow", command, delays)


def measure_delays(ways: Sequence[str], runs: int) -> dict[str, Taken]:
    """Deliver by each way, in turns."""
    taken = {way: Taken() for way in ways}
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        prices = _train(folder / "models")
        hosts = [stack.enter_context(ServingHost(folder / name)) for name in ("ours", "theirs")]
        airflow = stack.enter_context(
            AirflowStack(folder / "airflow", dags_folder=OWN_DAGS, environment=hosts[0].environment(), parallelism=2)
        )
        airflow.client.wait_for_dags("one_task", "four_tasks")
        ours, theirs = (
            Line(host, stack.enter_context(Reader(host.probe_url, pause=READER_PAUSE)), prices) for host in hosts
        )
        for line in (ours, theirs):
            line.reader.wait_for_another(None, seconds=DEADLINE_SECONDS)
        for round_number in range(-1, runs):
            for way in ways:
                line = theirs if way == "monitor" else ours
                if round_number < 0 and way == "monitor":
                    _start_monitor(stack.enter_context(Processes()), line.host, folder)
                time.sleep(random.uniform(0, WAYS[way]))
                known = 0 if way == "monitor" else len(airflow.client.runs(way))
                changed, served = line.deliver(f"/{way}")
                between = [] if way == "monitor" else _moments(airflow.client, way, known)
                # the first one finds nothing prepared
                if round_number >= 0:
                    taken[way].add([changed, *between, served])
    return taken


def _train(folder: Path) -> dict[str, float]:
    """Train two models, in a process that does not leave Paddle in this one."""
    trained = subprocess.run(
        [sys.executable, "-c", TRAINING, str(folder), "2"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    prices: dict[str, float] = json.loads(trained.splitlines()[-1])
    return prices


def _start_monitor(processes: Processes, host: ServingHost, folder: Path) -> None:
    options = {
        "type": "general", "general_host": host.store_url, "remote_path": "/monitor", "remote_model_name": ARCHIVE,
        "remote_donefile_name": "donefile", "local_path": host.serving_path, "local_model_name": MODEL,
        "unpacked_filename": MODEL,
    }  # fmt: skip
    command = [*shell_of_monitor(), str(MONITOR), "-m", "paddle_serving_server.monitor"]
    command += [f"--{name}={value}" for name, value in options.items()]
    processes.start("monitor.py", command, log=folder / "monitor.log", folder=host.serving_path)


def _moments(client: AirflowClient, dag_id: str, known: int) -> list[float]:
    """Tell when Airflow did what, in the run that came to those that were known."""
    run = _ended(client, dag_id, known)
    event = next(
        event for event in client.asset_events(f"{dag_id} donefile") if (dag_id, run.run_id) in event.created_runs
    )
    tasks = client.task_instances(dag_id, run.run_id)
    begun = min((task.start, task.queued) for task in tasks if task.start and task.queued)
    assert run.queued is not None
    return [moment.timestamp() for moment in (event.timestamp, run.queued, begun[1], begun[0])]


def _ended(client: AirflowClient, dag_id: str, known: int) -> DagRun:
    [run] = client.runs(dag_id)[known:]
    return client.wait_for_run(dag_id, run.run_id, seconds=DEADLINE_SECONDS)


def measure_imports(processes: int) -> dict[str, float]:
    """Give the seconds that an import takes behind that of `airflow.sdk`, by its name; that one itself included.

    Files are read as Airflow's Dag processor reads them, which has what is there before out of the collector's way.
    """
    imported = {
        "airflow.sdk": "pass",
        "the operators": "import airflow_serving_reload.operators",
        "the operators, sensors and triggers": (
            "import airflow_serving_reload.operators, airflow_serving_reload.sensors, airflow_serving_reload.triggers"
        ),
    }
    imported["a Dag of Airflow's own: one `@task`, each hour"] = PLAIN_DAG
    imported |= {f"`{file.name}`": READ_DAG.format(file=str(file)) for file in sorted(DAGS.glob("*.py"))}
    took: dict[str, list[float]] = {name: [] for name in imported}
    for _ in range(processes):
        for name, statement in imported.items():
            program = (
                "import gc, importlib.machinery, importlib.util, time; "
                "zero = time.perf_counter(); from airflow.sdk import DAG, BaseOperator; gc.freeze(); "
                f"began = time.perf_counter(); {statement}; end = time.perf_counter(); "
                f"print(began - zero if {name == 'airflow.sdk'} else end - began)"
            )
            printed = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
            took[name].append(float(printed.stdout.splitlines()[-1]))
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def _show_delays(figures: dict[str, Any]) -> None:
    rows = []
    for way, one in figures.items():
        begin, end = one["range"]
        stages = one["stages"] if len(one["stages"]) > 1 else {}
        cells = [f"{stages[stage]:.2f} s" if stage in stages else "" for stage in STAGES]
        rows.append([way, f"{WAYS[way]:g} s", f"{one['seconds']:.2f} s ({begin:.2f} to {end:.2f})", *cells])
    show(
        "From the donefile to the served model: median (minimum to maximum), and how long each stage took behind the "
        "one before",
        ("by", "looks every", "served after", *STAGES),
        rows,
    )


def _show_imports(figures: dict[str, float]) -> None:
    rows = [[name, f"{seconds * 1000:.0f} ms"] for name, seconds in figures.items()]
    show("What importing and parsing take, each but the first beyond `airflow.sdk`", ("what", "median"), rows)
