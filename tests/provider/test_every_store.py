"""The whole way over every store, by its connection alone: each operator, the sensor, the trigger and the Dag."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, TaskDeferred

from airflow_serving_reload.operators import (
    DownloadModelOperator,
    PublishModelOperator,
    ReloadModelOperator,
    RollbackModelOperator,
    TouchTimestampOperator,
    UnpackModelOperator,
    serving_reload_dag,
)
from airflow_serving_reload.sensors import DonefileSensor
from airflow_serving_reload.triggers import DonefileTrigger
from tests.contract.bench import PASSWORD, USER
from tests.contract.certificates import Authority
from tests.contract.embedded import start as start_embedded_store
from tests.contract.ftp_servers import EVERYTHING, PyFtpServer, tls_handler
from tests.contract.object_servers import BUCKET, REGION, S3Bench

from .conftest import Workplace
from .test_trigger import running

NAMES = ("with space", "hash#mark", "per%cent", "-leading-dash", "中文", ".hidden")

Connect = Callable[..., None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Give what makes the connection to the store out of its fields."""

    def connect(conn_type: str, **fields: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps({"conn_type": conn_type, **fields}))

    return connect


@pytest.fixture
def over_fs(workplace: Workplace) -> Workplace:
    """Put the store into a folder."""
    return workplace


@pytest.fixture
def over_http(workplace: Workplace, connect: Connect, processes, tmp_path_factory) -> Workplace:
    """Put the store behind HTTP, with a password."""
    folder = tmp_path_factory.mktemp("http")
    (folder / "password").write_text(PASSWORD)
    host, port = start_embedded_store(processes, folder, "--user", USER, "--password-file", str(folder / "password"))
    connect("http", host=host, port=port, login=USER, password=PASSWORD)
    return workplace


@pytest.fixture
def over_ftp(workplace: Workplace, connect: Connect) -> Iterator[Workplace]:
    """Put the store behind FTP, without a login."""
    with PyFtpServer(workplace.store).running() as server:
        server.authorizer.user_table["anonymous"]["perm"] = EVERYTHING
        connect("ftp", host=server.address.host, port=server.address.port)
        yield workplace


@pytest.fixture
def over_ftps(workplace: Workplace, connect: Connect, tmp_path: Path) -> Iterator[Workplace]:
    """Put the store behind FTP that wants TLS and a password."""
    authority = Authority(tmp_path)
    with PyFtpServer(workplace.store, **tls_handler(authority, tmp_path)).running() as server:
        extra = {"tls": True, "verify": str(authority.certificate)}
        connect(
            "ftp",
            host=server.address.host,
            port=server.address.port,
            login=USER,
            password=PASSWORD,
            extra=extra,
        )
        yield workplace


@pytest.fixture
def over_webhdfs(workplace: Workplace, connect: Connect, hdfs) -> Workplace:
    """Put the store into HDFS, behind WebHDFS."""
    host, port = hdfs.namenode.http
    connect("webhdfs", host=host, port=port, login=USER)
    return workplace


@pytest.fixture
def over_hdfs_native(workplace: Workplace, connect: Connect, hdfs, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Put the store into HDFS, behind its own protocol."""
    monkeypatch.setenv("HADOOP_USER_NAME", USER)
    host, port = hdfs.namenode.rpc
    connect("hdfs_native", host=host, port=port)
    return workplace


@pytest.fixture
def over_file(workplace: Workplace) -> Workplace:
    """Name the store's folder as object storage."""
    return replace(workplace, remote_path=f"file://{workplace.store}/models")


@pytest.fixture
def over_s3(workplace: Workplace, connect: Connect, s3_server) -> Workplace:
    """Put the store into a bucket."""
    S3Bench(s3_server).store.close()
    connect(
        "aws",
        login=USER,
        password=PASSWORD,
        extra={"endpoint_url": s3_server.url, "region_name": REGION},
    )
    return replace(workplace, remote_path=f"s3://{BUCKET}/models")


@pytest.fixture
def over_sftp(workplace: Workplace, connect: Connect, ssh_server) -> Workplace:
    """Put the store behind SFTP, with a key."""
    host, port = ssh_server.address
    extra = {"key_file": str(ssh_server.folder / "user_key"), "host_key": ssh_server.host_key}
    connect("sftp", host=host, port=port, login=getpass.getuser(), extra=extra)
    return replace(workplace, remote_path=f"sftp://{workplace.store}/models")


@pytest.fixture(params=["fs", "http", "ftp", "ftps", "webhdfs", "hdfs_native", "file", "s3", "sftp"])
def place(request: pytest.FixtureRequest) -> Workplace:
    """Give the folders of training and serving, with each kind of store between them."""
    place: Workplace = request.getfixturevalue(f"over_{request.param}")
    return place


def reload(place: Workplace, **arguments: Any) -> dict[str, Any]:
    """Deliver the model in one task."""
    arguments = {**place.remote, **place.local, "unpacked_filename": "trained", **arguments}
    return ReloadModelOperator(task_id="reload", **arguments).execute({})


def sensor(place: Workplace, **arguments: Any) -> DonefileSensor:
    """Make a sensor that gives up at once."""
    where = {"conn_id": "model_store", "remote_path": place.remote_path}
    return DonefileSensor(task_id="wait", poke_interval=0, timeout=0, **where, **arguments)


@pytest.mark.parametrize("donefile_format", ["json", "empty"])
def test_upload_reload_and_roll_back(place, caplog, capsys, donefile_format):
    """An uploaded model is delivered once, the next one too, until it is rolled back, and no log shows a password."""
    caplog.set_level("DEBUG", logger="airflow_serving_reload")
    uploaded = place.upload("v1", donefile_format=donefile_format)
    outcome = reload(place)
    assert outcome["sha256"] == uploaded["sha256"]
    assert place.live_weights() == "v1"
    assert not reload(place)["changed"]
    place.upload("v2", donefile_format=donefile_format)
    assert reload(place)["changed"]
    assert place.live_weights() == "v2"
    RollbackModelOperator(task_id="back", **place.local).execute({})
    assert place.live_weights() == "v1"
    shown = capsys.readouterr()
    assert PASSWORD not in caplog.text + shown.out + shown.err + json.dumps(outcome)


def test_step_by_step(place):
    """The four steps, handing each other paths, bring a model."""
    donefile = place.upload("v1")["donefile"]
    packed = DownloadModelOperator(
        task_id="d", **place.remote, local_path=str(place.serving), donefile=donefile
    ).execute({})
    unpacked = UnpackModelOperator(task_id="u", packed_path=packed, unpacked_filename="trained").execute({})
    PublishModelOperator(task_id="p", unpacked_path=unpacked, **place.local).execute({})
    TouchTimestampOperator(task_id="t", **place.local).execute({})
    assert place.live_weights() == "v1"
    assert not reload(place)["changed"]


def test_folder_model(place):
    """A model that is a folder, with names of every kind, is uploaded and delivered, without what it lost."""
    folder = {"remote_model_name": "-模型 #1 50%"}
    below = place.model / "below"
    below.mkdir()
    for name in (*NAMES, "gone in v2"):
        (below / name).write_text(name)
    place.upload("v1", **folder)
    reload(place, unpacked_filename=None, **folder)
    live = place.serving / "model"
    assert (live / "below" / "gone in v2").exists()
    (below / "gone in v2").unlink()
    uploaded = place.upload("v2", **folder)
    assert reload(place, unpacked_filename=None, **folder)["sha256"] == uploaded["sha256"]
    assert sorted(path.name for path in (live / "below").iterdir()) == sorted(NAMES)
    assert place.live_weights() == "v2"


@pytest.mark.parametrize("deferrable", [False, True])
def test_sensor(place, deferrable):
    """The sensor waits while there is no donefile or the known one, and sees the next."""
    waits = TaskDeferred if deferrable else AirflowSensorTimeout
    with pytest.raises(waits):
        sensor(place, deferrable=deferrable).execute({})
    first = place.upload("v1")["donefile"]
    assert sensor(place, deferrable=deferrable).execute({}) == first
    with pytest.raises(waits):
        sensor(place, deferrable=deferrable, last_seen=first).execute({})
    second = place.upload("v2")["donefile"]
    assert sensor(place, deferrable=deferrable, last_seen=first).execute({}) == second


async def test_trigger(place):
    """The trigger gives an event for each version, and none for one that is known."""
    trigger = DonefileTrigger(conn_id="model_store", remote_path=place.remote_path, poke_interval=0.05)
    async with running(trigger) as next_event:
        first = (await asyncio.to_thread(place.upload, "v1"))["donefile"]
        assert await next_event(60) == first
        second = (await asyncio.to_thread(place.upload, "v2"))["donefile"]
        assert await next_event(60) == second


def test_dag(place):
    """The task of the Dag that takes the place of a `monitor.py` command line delivers."""
    place.upload("v1")
    dag = serving_reload_dag("over_store", unpacked_filename="trained", **place.remote, **place.local)
    [task] = dag.tasks
    assert task.execute({})["changed"]
    assert place.live_weights() == "v1"
