"""An Airflow whose triggerer watches many donefiles, and what it costs there."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from airflow_serving_reload.demo.airflow_stack import AirflowStack

DAG_FILE = Path(__file__).parent / "dags" / "watchers.py"
FILE_SIZE = 1000
"""Donefiles of one Dag file: as long as one is written to the database, nobody else can."""

DATABASE_SECONDS = 600
"""How long everybody waits for the database, which SQLite gives to one at a time."""

START_SECONDS = 1800
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Group:
    """Donefiles that are watched alike.

    :param name: of the group, in the names of its assets.
    :param conn_id: connection to their store.
    :param donefiles: folder and name of each.
    :param poke_interval: seconds between two looks.
    :param deferred: waited for by deferred sensors, in place of the watchers of assets.
    :param last_seen: version that all of them have, so that none is told of at the start.
    """

    name: str
    conn_id: str
    donefiles: Sequence[tuple[str, str]]
    poke_interval: float
    deferred: bool = False
    last_seen: Mapping[str, Any] | None = None


@dataclass
class Costs:
    """What was seen of the triggerer while time passed.

    :param cpu: part of one core that its processes took.
    :param rss: bytes present, of all its processes.
    :param connections: most that it held to the store.
    :param unhealthy: looks at which Airflow did not take it for healthy.
    :param blocked: how often Airflow found its loop blocked, or took it for dead.
    """

    cpu: float = 0.0
    rss: int = 0
    connections: int = 0
    unhealthy: int = 0
    blocked: int = 0


@dataclass
class WatchingAirflow:
    """An Airflow whose triggerer watches.

    :param stack: its processes.
    :param triggerer: the triggerer's supervisor.
    """

    stack: AirflowStack
    triggerer: psutil.Process
    _database: Path = field(init=False)

    def __post_init__(self) -> None:
        self._database = self.stack.home / "airflow.db"

    @classmethod
    @contextmanager
    def running(cls, home: Path, groups: Sequence[Group], environment: Mapping[str, str]) -> Iterator[WatchingAirflow]:
        """Start it, with a Dag for each hundred donefiles."""
        told, dags = home.with_suffix(".json"), home.with_name("dags")
        told.write_text(json.dumps([asdict(group) for group in groups]))
        dags.mkdir()
        for start in range(0, max(len(group.donefiles) for group in groups), FILE_SIZE):
            shutil.copyfile(DAG_FILE, dags / f"watchers_{start}.py")
        settings = {
            "AIRFLOW__TRIGGERER__CAPACITY": "100000",
            # no other settings than those that Airflow has by itself
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "5",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "86400",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": str(START_SECONDS),
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": str(START_SECONDS),
            "AIRFLOW__CORE__MAX_MAP_LENGTH": "100000",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout={DATABASE_SECONDS}",
            "WATCHERS_BENCH": str(told),
            "WATCHERS_BENCH_FILE_SIZE": str(FILE_SIZE),
        }
        with AirflowStack(home, dags_folder=dags, environment={**environment, **settings}, parallelism=2) as stack:
            [guardian] = [child for child in psutil.Process().children() if "triggerer" in child.cmdline()]
            airflow = cls(stack, guardian.children()[0])
            for group in groups:
                if group.deferred:
                    stack.client.wait_for_dags(f"{group.name}_sensors", seconds=START_SECONDS)
                    stack.client.trigger(f"{group.name}_sensors")
            yield airflow

    def events(self, since: datetime) -> dict[str, datetime]:
        """Give the time of the last event of each asset, or of each sensor's trigger, behind a moment."""
        query = (
            "select asset.name, max(asset_event.timestamp) from asset_event join asset on asset.id = asset_id "
            "where asset_event.timestamp > ? group by asset.name"
        )
        return {name: datetime.fromisoformat(at).replace(tzinfo=UTC) for name, at in self._ask(query, _text(since))}

    def remembered(self) -> int:
        """Give the number of donefiles of which the state of an asset tells."""
        return int(self._ask("select count(distinct asset_id) from asset_state_store")[0][0])

    def triggers(self) -> int:
        """Give the number of triggers that the triggerer has."""
        return int(self._ask("select count(*) from trigger where triggerer_id is not null")[0][0])

    def resumed(self, since: datetime) -> dict[str, datetime]:
        """Give when each sensor came back from the triggerer behind a moment, by its index."""
        query = (
            "select map_index, scheduled_dttm from task_instance where task_id = 'wait' and trigger_id is null "
            "and scheduled_dttm > ?"
        )
        return {index: datetime.fromisoformat(at).replace(tzinfo=UTC) for index, at in self._ask(query, _text(since))}

    def _ask(self, query: str, *values: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=60)) as connection:
            return connection.execute(query, values).fetchall()

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> float:
        """Wait until something holds, and give the seconds that it took."""
        began = time.monotonic()
        while not condition():
            self.stack.check()
            if time.monotonic() > began + seconds:
                raise TimeoutError(f"never seen within {seconds} s: {what}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    @contextmanager
    def measured(self, port: int) -> Iterator[Costs]:
        """Measure what the triggerer costs, until the end of the `with` block.

        :param port: of the store.
        """
        costs = Costs(blocked=-self._blocked())
        stop = threading.Event()

        def look_again() -> None:
            while not stop.wait(LOOK_SECONDS):
                self._look(port, costs)

        looking = threading.Thread(target=look_again)
        began, cpu = time.monotonic(), self._cpu()
        looking.start()
        try:
            yield costs
        finally:
            stop.set()
            looking.join()
        costs.cpu = (self._cpu() - cpu) / (time.monotonic() - began)
        costs.blocked += self._blocked()

    def _look(self, port: int, costs: Costs) -> None:
        memory = connections = 0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                memory += process.memory_info().rss
                held = process.net_connections("tcp")
                connections += sum(
                    1 for one in held if one.raddr and one.raddr.port == port and one.status == "ESTABLISHED"
                )
        costs.rss = max(costs.rss, memory)
        costs.connections = max(costs.connections, connections)
        costs.unhealthy += not self.stack.client.is_healthy("triggerer", since=datetime.fromtimestamp(0, UTC))

    def supervisor_cpu(self, seconds: float) -> float:
        """Give the part of one core that the triggerer's supervisor takes from now on for so many seconds."""
        began = sum(self.triggerer.cpu_times()[:2])
        time.sleep(seconds)
        return (sum(self.triggerer.cpu_times()[:2]) - began) / seconds

    def processes(self) -> list[psutil.Process]:
        """Give the triggerer's processes."""
        return [self.triggerer, *self.triggerer.children(recursive=True)]

    def _cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def _blocked(self) -> int:
        log = self.stack.log("triggerer").read_text(errors="replace")
        return log.count("async thread was blocked") + log.count("appears deadlocked")


def _text(moment: datetime) -> str:
    """Give a moment as the database has it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
