"""A whole Airflow in a private folder, all its components started and ended as one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cryptography.fernet import Fernet

from airflow_serving_reload.demo.airflow_client import AirflowClient, AirflowError, Component
from airflow_serving_reload.demo.processes import Child, Processes

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
