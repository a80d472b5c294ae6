"""One store, one model server and one Airflow for all system tests, with what the tests do to them."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.stores.http import HttpStore
from airflow_serving_reload.delivery.upload import DonefileFormat, Uploaded, upload
from airflow_serving_reload.demo.airflow_client import AirflowClient, AirflowError, AssetEvent, DagRun
from airflow_serving_reload.demo.airflow_stack import AirflowStack
from airflow_serving_reload.demo.host import TIMESTAMP_FILE, Answer, Reader, ServingHost
from airflow_serving_reload.demo.processes import Processes
from tests.contract.hadoop import Hdfs
from tests.requirements import require

from .running import DEADLINE_SECONDS, wait_until

CHECKOUT = Path(__file__).parents[2]
DAGS = CHECKOUT / "dags"
HELPER_DAGS = Path(__file__).parent / "dags"
WATCHED = "/models/uci_housing"
ARCHIVE = "uci_housing.tar.gz"
RELOAD = "uci_housing_reload"
MODELS = 5

TRAINING = """
import json, sys
from pathlib import Path
from airflow_serving_reload.demo import housing, paddle_model

prices = {}
for seed in range(int(sys.argv[2])):
    model = Path(sys.argv[1], f"seed-{seed}", "uci_housing_model")
    housing.train(model, seed=seed, epochs=2 + seed)
    prices[str(model)] = paddle_model.load(str(model), 0).price(housing.normalise(housing.SAMPLE_HOUSE))
print(json.dumps(prices))
"""


@dataclass(frozen=True)
class Model:
    """A trained model, and the price by which its answers are known."""

    path: Path
    price: float


@dataclass(frozen=True)
class GuardedStore:
    """A store that asks for a password."""

    url: str
    folder: Path
    user: str
    password: str
    wrong_password: str

    def connection(self, password: str) -> str:
        """Give an Airflow connection to it."""
        return json.dumps({"conn_type": "http", "host": self.url, "login": self.user, "password": password})


@dataclass(frozen=True)
class HadoopStore:
    """An HDFS, by its own client.

    :param user: who asks, and what proves it: `fs_ugi` as AFS wants it.
    """

    hdfs: Hdfs
    program: Path
    user: str
    password: str

    def connection(self) -> str:
        """Give an Airflow connection to it."""
        fields = {"conn_type": "hadoop_cli", "host": self.hdfs.url, "password": f"{self.user},{self.password}"}
        return json.dumps({**fields, "extra": {"hadoop_bin": str(self.program)}})


@dataclass(frozen=True)
class Live:
    """What must not move when a delivery fails: the link, the timestamp file and the answer."""

    link: Path | None
    mtime_ns: int
    answer: Answer | None


@dataclass(frozen=True)
class System:
    """Everything that runs.

    :param models: trained models, each with another price.
    """

    host: ServingHost
    airflow: AirflowStack
    models: tuple[Model, ...]
    guarded_store: GuardedStore
    hadoop_store: HadoopStore

    @property
    def client(self) -> AirflowClient:
        """The client of Airflow's REST API."""
        return self.airflow.client

    @cached_property
    def api(self) -> requests.Session:
        """What asks Airflow what its client does not."""
        session = requests.Session()
        session.trust_env = False
        token = session.get(f"{self.airflow.url}/auth/token", timeout=30).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        return session

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Ask Airflow's REST API."""
        answer = self.api.get(f"{self.airflow.url}/api/v2/{path}", params=parameters, timeout=30)
        answer.raise_for_status()
        return dict(answer.json())

    def asset_state(self, asset_name: str, key: str) -> Any:
        """Give a value from the state of an asset; None if there is none."""
        [asset_id] = self._asset_ids(asset_name)
        entries = self.get(f"assets/{asset_id}/state-store")["asset_state_store"]
        return next((entry["value"] for entry in entries if entry["key"] == key), None)

    def _asset_ids(self, asset_name: str) -> list[int]:
        """Give the number of an asset; none for one that no Dag has named yet."""
        assets = self.get("assets", name_pattern=asset_name)["assets"]
        return [asset["id"] for asset in assets if asset["name"] == asset_name]

    def _is_due(self, asset_name: str) -> bool:
        """Whether an event of an asset has still to start a run."""
        return any(self.get(f"assets/{number}/queuedEvents")["total_entries"] for number in self._asset_ids(asset_name))

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Let a run go on from one of its tasks anew, as the button in the UI does."""
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "include_downstream": True,
        }
        self.api.post(
            f"{self.airflow.url}/api/v2/dags/{dag_id}/clearTaskInstances", json=body, timeout=30
        ).raise_for_status()

    def store(self) -> HttpStore:
        """Open the store, as training elsewhere would."""
        session = requests.Session()
        session.trust_env = False
        return HttpStore(session, self.host.store_url)

    def upload(self, source: Path, remote_path: str = WATCHED, *, donefile_format: DonefileFormat = "json") -> Uploaded:
        """Upload a model, then its donefile."""
        with self.store() as store:
            return upload(
                store, remote_path, source, model=ARCHIVE, donefile="donefile", donefile_format=donefile_format
            )

    def in_store(self, remote_path: str, name: str) -> Path:
        """Give the place of a file of the store."""
        return self.host.store_folder / remote_path.strip("/") / name

    def other_models(self, answer: Answer | None) -> list[Model]:
        """Give the models that do not answer now."""
        return [model for model in self.models if answer is None or model.price != answer.price]

    def live(self, answer: Answer | None) -> Live:
        """Note what is live."""
        model = self.host.model
        return Live(
            link=model.readlink() if model.is_symlink() else None,
            mtime_ns=(model / TIMESTAMP_FILE).stat().st_mtime_ns,
            answer=answer,
        )

    def wait_for_answer(self, reader: Reader, model: Model) -> Answer:
        """Wait until a model answers."""
        wait_until(lambda: reader.last is not None and reader.last.price == model.price, f"{model} answering")
        assert reader.last is not None
        return reader.last

    def wait_for_server_passes(self, number: int) -> None:
        """Wait until the server has looked at the timestamp file that many times from now on."""

        def passes() -> int:
            return self.host.log_path.read_text().count("Finish reload")

        # The pass under way now may have looked before.
        awaited = passes() + number + 1
        wait_until(lambda: passes() >= awaited, f"{number} more looks of the server")

    def wait_for_new_runs(self, dag_id: str, known: int, number: int = 1) -> list[DagRun]:
        """Wait until a Dag has a number of runs more than are known, and these have succeeded."""
        wait_until(lambda: len(self.client.runs(dag_id)) >= known + number, f"{number} new run(s) of {dag_id}")
        new = self.client.runs(dag_id)[known:]
        return [self.client.wait_for_run(dag_id, run.run_id, seconds=DEADLINE_SECONDS) for run in new]

    def wait_for_end(self, dag_id: str, run_id: str) -> DagRun:
        """Wait until a run has ended, well or not."""
        wait_until(
            lambda: self.client.run(dag_id, run_id).state in ("success", "failed"), f"the end of {run_id} of {dag_id}"
        )
        return self.client.run(dag_id, run_id)

    def events(self, asset_name: str) -> list[AssetEvent]:
        """List the events of an asset that starts Dags, as soon as each has started its runs."""
        found: list[AssetEvent] = []

        def all_started() -> bool:
            due = self._is_due(asset_name)
            try:
                found[:] = self.client.asset_events(asset_name)
            except AirflowError as error:
                # So Airflow 3.3 answers while a run that an event has created is still queued.
                if "was answered by 500" in str(error):
                    return False
                raise
            # an event tells of no run that the clock, set back, has put before it
            return all(event.created_runs for event in found) or not (due or self._is_due(asset_name))

        wait_until(all_started, f"a run for each event of {asset_name}")
        return found

    def wait_until_quiet(self) -> None:
        """Wait until no run is under way and none is due."""

        def active() -> int:
            return int(self.get("dags/~/dagRuns", state=["queued", "running"])["total_entries"])

        # What a run has changed may start another.
        for asset in ("uci_housing donefile", "guarded donefile", "uci_housing live"):
            self.events(asset)
            wait_until(lambda: active() == 0, "all runs ended")

    def wait_until_announced(self, version: DonefileVersion) -> None:
        """Wait until the watcher remembers, behind its event, that it has announced a version."""

        def remembered() -> Any:
            return self.asset_state("uci_housing donefile", "donefile")

        wait_until(
            lambda: (facts := remembered()) and DonefileVersion.from_dict(facts) == version,
            f"{version} in the state of the donefile's asset",
        )


@pytest.fixture(scope="session")
def trained_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, ...]:
    """Train models, in a process that does not leave Paddle in this one."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-c", TRAINING, str(folder), str(MODELS)]
    trained = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    prices = json.loads(trained.splitlines()[-1])
    assert len(set(prices.values())) == MODELS, "no two models give the same price"
    return tuple(Model(Path(path), price) for path, price in prices.items())


@pytest.fixture(scope="session")
def guarded_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedStore]:
    """Start a second store, which asks for a password."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "root").mkdir()
    # Characters that have to be quoted in an address must not unmask it.
    password = f"open/sesame@{secrets.token_hex(8)}"
    (folder / "password").write_text(password)
    with Processes(unwind_on_signals=False) as processes:
        store = processes.start(
            "guarded store",
            [
                *(sys.executable, "-m", "airflow_serving_reload.demo.store", "--root", str(folder / "root")),
                *("--user", "trainer", "--password-file", str(folder / "password")),
                *("--port", "0", "--port-file", str(folder / "port")),
            ],
            log=folder / "store.log",
        )
        processes.wait_until((folder / "port").exists, store, seconds=DEADLINE_SECONDS)
        yield GuardedStore(
            url=f"http://127.0.0.1:{int((folder / 'port').read_text())}",
            folder=folder / "root",
            user="trainer",
            password=password,
            wrong_password=f"open/barley@{secrets.token_hex(8)}",
        )


@pytest.fixture(scope="session")
def hadoop_store(running_hdfs: Hdfs, tmp_path_factory: pytest.TempPathFactory) -> HadoopStore:
    """Make a Hadoop client for an HDFS."""
    running_hdfs.clear()
    program = running_hdfs.hadoop.write_client(tmp_path_factory.mktemp("hadoop") / "client")
    return HadoopStore(running_hdfs, program, getpass.getuser(), f"sesame-{secrets.token_hex(8)}")


@pytest.fixture(scope="session")
def unreachable_url() -> Iterator[str]:
    """Give an address at which nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the place of a migrated database, which the first Airflow makes and the others start with."""
    return tmp_path_factory.mktemp("database") / "template.db"


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory,
    database_template: Path,
    *,
    trained_models: tuple[Model, ...],
    guarded_store: GuardedStore,
    hadoop_store: HadoopStore,
    unreachable_url: str,
) -> Iterator[System]:
    """Start everything, until the end of the tests that share it: an Airflow takes its time even if it is idle."""
    folder = tmp_path_factory.mktemp("system")
    bundles = [
        {
            "name": name,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(path), "refresh_interval": 60},
        }
        for name, path in (("examples", DAGS), ("helpers", HELPER_DAGS))
    ]
    with ServingHost(folder, unwind_on_signals=False) as host:
        environment: Mapping[str, str] = {
            **host.environment(),
            "UCI_HOUSING_TRAINING_SCHEDULE": "",
            "AIRFLOW_CONN_GUARDED_STORE": guarded_store.connection(guarded_store.password),
            "AIRFLOW_CONN_GUARDED_STORE_WRONG_PASSWORD": guarded_store.connection(guarded_store.wrong_password),
            "AIRFLOW_CONN_HADOOP_STORE": hadoop_store.connection(),
            "AIRFLOW_CONN_UNREACHABLE_STORE": json.dumps({"conn_type": "http", "host": unreachable_url}),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        }
        with AirflowStack(
            folder / "airflow",
            dags_folder=DAGS,
            environment=environment,
            parallelism=3,
            database_template=database_template,
            unwind_on_signals=False,
        ) as airflow:
            airflow.client.wait_for_dags(
                "uci_housing_train",
                RELOAD,
                "uci_housing_train_to_serving",
                "uci_housing_hdfs",
                "model_rollback",
                "reload_anything",
                "reload_mapped",
                "live_listener",
                "wait_for_donefile",
                "guarded_reload",
                "guarded_upload",
            )
            yield System(host, airflow, trained_models, guarded_store, hadoop_store)


@pytest.fixture(scope="session")
def launcher_python() -> Path:
    """Return the interpreter of the environment that holds Paddle Serving's own programs, which cannot share ours."""
    folder = CHECKOUT / os.environ.get("PADDLE_SERVING_VENV", ".venv-paddle-serving")
    python = folder / "bin" / "python"
    require(
        python.exists(),
        f"needs Paddle Serving's own programs: {folder} has no bin/python; run `make paddle-serving`, or set "
        "PADDLE_SERVING_VENV",
    )
    return python
