"""A whole Airflow in a private folder, all its components started and ended as one, and a client for it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import requests
from cryptography.fernet import Fernet

from airflow_serving_reload.demo.processes import Child, Processes

Component = Literal["api-server", "scheduler", "triggerer", "dag-processor"]

# In the order of start: the api-server takes longest and everybody else needs it, so it also ends last.
# The log servers would listen on all interfaces; without them the api-server reads the same files itself.
_ARGUMENTS: Mapping[Component, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "triggerer": ("triggerer", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
}
# The scheduler has tasks to bring to an end. The others soon have nothing left to do, yet take their time:
# the triggerer may wait 10 s for a process that has ended, the api-server takes its memory apart.
_SCHEDULER_GRACE, _GRACE = 10.0, 3.0  # seconds
_LOCALHOST = "127.0.0.1"
_POLL_SECONDS = 0.2
_PAGE = 100
_LOG_LINES = 20


class AirflowError(RuntimeError):
    """Airflow refused a request, or something in it failed or took too long."""


class AirflowStack:
    """A real Airflow on SQLite with the LocalExecutor, for demonstration and tests; a context manager.

    Entering returns once every component is healthy; leaving ends every process of it.

    :param home: folder for everything that Airflow writes; it may hold the Airflow of an earlier start.
    :param dags_folder: where the Dags are.
    :param environment: variables for all components on top of the inherited ones (of which those that
        configure another Airflow are left out) and of the stack's own settings.
    :param parallelism: how many tasks run at once; as many worker processes are started.
    :param port: where the UI and the API listen on 127.0.0.1; None takes a free one.
    :param paused_at_creation: whether new Dags start paused.
    :param database_template: a migrated and otherwise empty database to copy in place of migrating, which
        takes some seconds; made by the first start where it does not exist.
    :param unwind_on_signals: see :class:`~airflow_serving_reload.demo.processes.Processes`.
    :param start_seconds: how long the migration, and then all components together, may take to be ready.
    :raises AirflowError: if something else listens on ``port``.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags_folder: Path,
        environment: Mapping[str, str],
        parallelism: int = 4,
        port: int | None = None,
        paused_at_creation: bool = False,
        database_template: Path | None = None,
        unwind_on_signals: bool = True,
        start_seconds: float = 180.0,
    ) -> None:
        self.home = home.resolve()
        self.port, self._reserved_port = _reserve_port(port)
        self.url = f"http://{_LOCALHOST}:{self.port}"
        self._processes = Processes(unwind_on_signals=unwind_on_signals)
        self.client = AirflowClient(self.url, check=self._processes.check)
        self._database_template = database_template
        self._start_seconds = start_seconds
        self._environment = {
            **_inherited_environment(),
            **_settings(
                self.home,
                dags_folder=dags_folder.resolve(),
                port=self.port,
                url=self.url,
                parallelism=parallelism,
                paused_at_creation=paused_at_creation,
            ),
            **environment,
        }
        self._components: dict[Component, Child] = {}
        self._started: dict[Component, datetime] = {}
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            resources.enter_context(self._reserved_port)
            resources.callback(self.client.close)
            resources.enter_context(self._processes)
            self._prepare_home()
            self._prepare_database()
            for component in _ARGUMENTS:
                self._start(component)
            deadline = time.monotonic() + self._start_seconds
            for component in _ARGUMENTS:
                self._wait_until_healthy(component, deadline - time.monotonic())
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    def log(self, component: Component | Literal["db-migrate"]) -> Path:
        """Give the file with the output of one component."""
        return self.home / "output" / f"{component}.log"

    def check(self) -> None:
        """Raise if a component has ended by itself.

        :raises ProcessError: which one, with its last words.
        """
        self._processes.check()

    def restart(self, component: Component, *, kill: bool = False) -> None:
        """End one component, start it again and wait until it is healthy.

        :param kill: end it and everything below it by SIGKILL, as a crash of its host would.
        """
        self.stop(component, kill=kill)
        self.start(component)

    def stop(self, component: Component, *, kill: bool = False) -> None:
        """End one component; for what happens while it is away.

        :param kill: see :meth:`restart`.
        """
        self._processes.end(self._components.pop(component), kill=kill)

    def start(self, component: Component) -> None:
        """Start a stopped component again and wait until it is healthy."""
        self._start(component)
        self._wait_until_healthy(component, self._start_seconds)

    def _start(self, component: Component) -> None:
        self._started[component] = datetime.now(UTC)
        self._components[component] = self._processes.start(
            component,
            _airflow(*_ARGUMENTS[component]),
            log=self.log(component),
            environment=self._environment,
            folder=self.home,
            grace=_SCHEDULER_GRACE if component == "scheduler" else _GRACE,
        )

    def _wait_until_healthy(self, component: Component, seconds: float) -> None:
        self._processes.wait_until(
            lambda: self.client.is_healthy(component, since=self._started[component]),
            self._components[component],
            seconds=seconds,
        )

    def _prepare_database(self) -> None:
        database, template = self.home / "airflow.db", self._database_template
        if template is not None and template.exists() and not database.exists():
            shutil.copyfile(template, database)
            return
        self._processes.run(
            "db-migrate",
            _airflow("db", "migrate"),
            log=self.log("db-migrate"),
            seconds=self._start_seconds,
            environment=self._environment,
            folder=self.home,
        )
        with closing(sqlite3.connect(database)) as connection:
            # Four writers: in this mode (kept in the file) none of them has to wait for a reader.
            connection.execute("PRAGMA journal_mode=WAL")
        if template is not None and not template.exists():
            unfinished = template.with_name(f"{template.name}.{os.getpid()}")
            shutil.copyfile(database, unfinished)
            unfinished.replace(template)

    def _prepare_home(self) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Where this file is missing each component writes one, all at the same time.
        (self.home / "airflow.cfg").touch()
        self._environment |= _keys(self.home / "keys.json")


@dataclass(frozen=True, slots=True)
class DagRun:
    """One run of a Dag."""

    dag_id: str
    run_id: str
    run_type: str
    state: str
    conf: Mapping[str, Any]
    queued: datetime | None
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One task of a run; ``map_index`` is -1 if it is not mapped, ``state`` None if it is not scheduled."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    queued: datetime | None
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class AssetEvent:
    """One event of an asset and the runs that it has created."""

    timestamp: datetime
    extra: Mapping[str, Any]
    source_dag_id: str | None
    source_task_id: str | None
    created_runs: tuple[tuple[str, str], ...]


class AirflowClient:
    """What the demonstration and the tests ask of Airflow's REST API, as the administrator.

    :param url: where the api-server is.
    :param check: called again and again while waiting, to raise where waiting has become pointless.
    """

    def __init__(self, url: str, *, check: Callable[[], None] = lambda: None) -> None:
        self._url = url
        self._check = check
        self._session = requests.Session()
        self._session.trust_env = False  # No proxy on the way to oneself.

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def is_healthy(self, component: Component, *, since: datetime) -> bool:
        """Tell whether a component is healthy.

        :param since: a heartbeat from before this time is that of a predecessor and does not count.
        """
        try:
            answer = self._session.get(f"{self._url}/api/v2/monitor/health", timeout=30)
        except requests.RequestException:
            return False
        if not answer.ok:
            return False
        name = "metadatabase" if component == "api-server" else component.replace("-", "_")
        health = answer.json()[name]
        if health["status"] != "healthy":
            return False
        return component == "api-server" or datetime.fromisoformat(health[f"latest_{name}_heartbeat"]) > since

    def import_errors(self) -> dict[str, str]:
        """Give the Dag files that cannot be imported, each with the exception."""
        errors = self._all("importErrors", "import_errors")
        return {error["filename"]: error["stack_trace"] for error in errors}

    def wait_for_dags(self, *dag_ids: str, seconds: float = 60.0) -> None:
        """Wait until Dags have been parsed.

        :raises AirflowError: if a file cannot be imported, or a Dag is still missing after that time.
        """

        def missing() -> set[str]:
            return set(dag_ids) - {dag["dag_id"] for dag in self._all("dags", "dags")}

        def all_parsed() -> bool:
            if errors := self.import_errors():
                texts = "\n".join(f"{file}:\n{text}" for file, text in errors.items())
                raise AirflowError(f"Airflow cannot import {len(errors)} Dag file(s).\n{texts}")
            return not missing()

        self._wait_until(all_parsed, seconds, lambda: f"Airflow has not found {sorted(missing())}")

    def pause(self, dag_id: str, *, paused: bool = True) -> None:
        """Pause or unpause a Dag."""
        self._call("PATCH", f"dags/{dag_id}", json={"is_paused": paused})

    def unpause(self, dag_id: str) -> None:
        """Unpause a Dag."""
        self.pause(dag_id, paused=False)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Trigger a Dag, as the trigger button does.

        :param conf: values for the parameters of the Dag.
        :return: the id of the run.
        """
        run = self._call("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf or {}})
        return str(run["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Give one run of a Dag."""
        return _dag_run(self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}"))

    def runs(self, dag_id: str) -> list[DagRun]:
        """List the runs of a Dag, oldest first."""
        return [_dag_run(run) for run in self._all(f"dags/{dag_id}/dagRuns", "dag_runs", order_by="id")]

    def wait_for_run(self, dag_id: str, run_id: str, *, seconds: float = 120.0) -> DagRun:
        """Wait until a run has succeeded.

        :return: the run as it has ended.
        :raises AirflowError: if it fails, or is unfinished after that time; with the states of its tasks and
            the last lines of the logs of those that did not succeed.
        """

        def ended() -> bool:
            return self.run(dag_id, run_id).state in ("success", "failed")

        self._wait_until(ended, seconds, lambda: self._explain(dag_id, run_id, "has not ended"))
        run = self.run(dag_id, run_id)
        if run.state == "failed":
            raise AirflowError(self._explain(dag_id, run_id, "has failed"))
        return run

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """List the tasks of a run."""
        return [
            TaskInstance(
                task_id=task["task_id"],
                map_index=task["map_index"],
                state=task["state"],
                try_number=task["try_number"],
                queued=_time(task["queued_when"]),
                start=_time(task["start_date"]),
                end=_time(task["end_date"]),
            )
            for task in self._all(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
        ]

    def task_log(self, dag_id: str, run_id: str, task: TaskInstance) -> list[str]:
        """Give the lines of the log of a task's last try."""
        log = self._call(
            "GET",
            f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{task.try_number}",
            params={"map_index": task.map_index, "full_content": True},
        )
        return [_log_line(message) for message in log["content"]]

    def xcom(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        key: str = "return_value",
        map_index: int = -1,
    ) -> Any:
        """Give a value that a task has pushed."""
        entry = self._call(
            "GET",
            f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}",
            params={"map_index": map_index},
        )
        return entry["value"]

    def asset_events(self, asset_name: str) -> list[AssetEvent]:
        """List the events of an asset, oldest first; none for an asset that no Dag has named yet."""
        return [
            AssetEvent(
                timestamp=datetime.fromisoformat(event["timestamp"]),
                extra=event["extra"] or {},
                source_dag_id=event["source_dag_id"],
                source_task_id=event["source_task_id"],
                created_runs=tuple((run["dag_id"], run["run_id"]) for run in event["created_dagruns"]),
            )
            for event in self._all("assets/events", "asset_events", name_pattern=asset_name)
            if event["name"] == asset_name
        ]

    def _explain(self, dag_id: str, run_id: str, what: str) -> str:
        tasks = self.task_instances(dag_id, run_id)
        lines = [f"run {run_id} of Dag {dag_id} {what}."]
        lines += [f"Task {task.task_id} (map index {task.map_index}): {task.state}" for task in tasks]
        for task in tasks:
            if task.try_number and task.state not in ("success", "upstream_failed", "skipped"):
                lines.append(f"The last lines of the log of task {task.task_id}:")
                lines += self.task_log(dag_id, run_id, task)[-_LOG_LINES:]
        return "\n".join(lines)

    def _wait_until(self, condition: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                raise AirflowError(f"Waited {seconds:g} s: {explain()}")
            time.sleep(_POLL_SECONDS)

    def _all(self, path: str, key: str, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", path, params={**params, "limit": _PAGE, "offset": len(found)})[key]
            found.extend(page)
            if len(page) < _PAGE:
                return found

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        if "Authorization" not in self._session.headers:
            token = self._session.get(f"{self._url}/auth/token", timeout=30).json()["access_token"]
            self._session.headers["Authorization"] = f"Bearer {token}"
        answer = self._session.request(method, f"{self._url}/api/v2/{path}", timeout=30, **arguments)
        if not answer.ok:
            raise AirflowError(f"{method} {path} was answered by {answer.status_code}: {answer.text[:2000]}")
        return answer.json()


def _airflow(*arguments: str) -> list[str]:
    # The airflow of this very interpreter, whatever PATH says; -P keeps the working directory off sys.path.
    return [sys.executable, "-P", "-m", "airflow", *arguments]


def _reserve_port(port: int | None) -> tuple[int, socket.socket]:
    """Bind the api-server's port, but do not listen, so that Linux gives it to nobody else meanwhile."""
    reserved = socket.socket()
    # On Linux this lets the api-server, which sets it too, listen on the port all the same.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((_LOCALHOST, port or 0))
    except OSError as error:
        reserved.close()
        raise AirflowError(f"Cannot listen on {_LOCALHOST}:{port}: {error}. Choose another port.") from error
    found: int = reserved.getsockname()[1]
    if sys.platform != "linux":
        reserved.close()
    return found, reserved


def _inherited_environment() -> dict[str, str]:
    others = ("AIRFLOW_", "_AIRFLOW_")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


def _keys(file: Path) -> dict[str, str]:
    """Make the keys that the components share, once for each home."""
    if not file.exists():
        file.touch(mode=0o600)
        keys = {
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(64),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
        }
        file.write_text(json.dumps(keys))
    return dict(json.loads(file.read_text()))


def _settings(
    home: Path, *, dags_folder: Path, port: int, url: str, parallelism: int, paused_at_creation: bool
) -> dict[str, str]:
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": dags_folder,
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": parallelism,
            "dags_are_paused_at_creation": paused_at_creation,
            "simple_auth_manager_all_admins": True,
            "execution_api_server_url": f"{url}/execution/",
        },
        "api": {"host": _LOCALHOST, "port": port, "base_url": url, "workers": 1},
        # The questions whether it is healthy would bury everything else.
        "logging": {"colored_console_log": False, "namespace_levels": "http.access=WARNING"},
        "dag_processor": {
            "dag_bundle_storage_path": home / "bundles",
            # New and changed files are seen within a second; unchanged ones are left in peace.
            "bundle_refresh_check_interval": 1,
            "refresh_interval": 1,
        },
        "scheduler": {
            "scheduler_idle_sleep_time": 0.2,
            "scheduler_heartbeat_sec": 1,
            "job_heartbeat_sec": 1,
            # The tasks of a killed scheduler are taken over after 10 s, not 5 minutes.
            "scheduler_health_check_threshold": 10,
            "orphaned_tasks_check_interval": 5,
        },
        # So are the triggers of a killed triggerer, not after 30 s.
        "triggerer": {"job_heartbeat_sec": 1, "triggerer_health_check_threshold": 10},
    }
    return {
        "AIRFLOW_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), _LOCALHOST])),
        **{
            f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
            for section, options in sections.items()
            for option, value in options.items()
        },
    }


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _dag_run(answer: Mapping[str, Any]) -> DagRun:
    return DagRun(
        dag_id=answer["dag_id"],
        run_id=answer["dag_run_id"],
        run_type=answer["run_type"],
        state=answer["state"],
        conf=answer["conf"] or {},
        queued=_time(answer["queued_at"]),
        start=_time(answer["start_date"]),
        end=_time(answer["end_date"]),
    )


def _log_line(message: str | Mapping[str, Any]) -> str:
    if isinstance(message, str):
        return message
    line = f"{message.get('timestamp', '')} {message.get('level', '')} {message['event']}"
    for error in message.get("error_detail", ()):
        line += f"\n    {error['exc_type']}: {error['exc_value']}"
        for frame in error["frames"][-3:]:
            line += f"\n        {frame['filename']}:{frame['lineno']} in {frame['name']}"
    return line.strip()
