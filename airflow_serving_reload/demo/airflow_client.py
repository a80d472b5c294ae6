"""What the demonstration and the tests ask of Airflow's REST API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import requests

Component = Literal["api-server", "scheduler", "triggerer", "dag-processor"]

_POLL_SECONDS = 0.2
_PAGE = 100
_LOG_LINES = 20


class AirflowError(RuntimeError):
    """Airflow refused a request, or something in it failed or took too long."""


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
    pid: int | None


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
                pid=task["pid"],
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
