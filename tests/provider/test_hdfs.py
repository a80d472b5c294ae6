"""The operators, the sensor, the trigger and the Dag over a real HDFS, by connections alone."""

from __future__ import annotations

import io
import json
import sys
import tarfile

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_serving_reload.connections import open_store
from airflow_serving_reload.delivery import stores
from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.operators import (
    ReloadModelOperator,
)
from airflow_serving_reload.sensors import DonefileSensor
from airflow_serving_reload.triggers import DonefileTrigger
from tests.contract.bench import PASSWORD, USER

REMOTE = {"conn_id": "model_store", "remote_path": "/", "remote_model_name": "uci_housing.tar.gz"}


BY_NETWORK = pytest.mark.parametrize("connection", ["webhdfs", "hdfs_native"], indirect=True)


@pytest.fixture(params=["webhdfs", "hdfs_native", "hadoop_cli"])
def connection(request, hdfs, monkeypatch):
    """Make a connection of each type to an empty HDFS, and give its fields."""
    if request.param == "hadoop_cli":
        program = request.getfixturevalue("hadoop_program")
        fields = {
            "conn_type": "hadoop_cli",
            "host": hdfs.url,
            "password": f"{USER},{PASSWORD}",
            "extra": {"hadoop_bin": str(program)},
        }
    else:
        monkeypatch.setenv("HADOOP_USER_NAME", USER)
        host, port = hdfs.namenode.http if request.param == "webhdfs" else hdfs.namenode.rpc
        fields = {"conn_type": request.param, "host": host, "port": port, "login": USER}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps(fields))
    return fields


@pytest.fixture
def connect(monkeypatch):
    """Give what changes fields of the connection."""

    def connect(fields, **changes):
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps({**fields, **changes}))

    return connect


@pytest.fixture
def place(workplace, connection):
    """Give the folders of training and serving, with the store in HDFS."""
    return workplace


def reload(place, **arguments):
    """Deliver the model in one task."""
    arguments = {**REMOTE, **place.local, "unpacked_filename": "trained", **arguments}
    return ReloadModelOperator(task_id="reload", **arguments).execute({})


def sensor(**arguments):
    """Make a sensor that gives up at once."""
    arguments = {"conn_id": "model_store", "remote_path": "/", "poke_interval": 0, "timeout": 0, **arguments}
    return DonefileSensor(task_id="wait", **arguments)


class SeedProducer:
    """Uploads as the seed's training script does: removes the model, puts it, and then a fresh empty donefile."""

    def __init__(self, administrator):
        self._hdfs = administrator

    def steps(self, weights):
        """Do one step after the other, and tell after each whether a model may be noticed now."""
        self._hdfs.delete("/uci_housing.tar.gz")
        yield False
        self._hdfs.write("/uci_housing.tar.gz", _packed(weights))
        yield False
        self._hdfs.delete("/donefile")
        yield False
        self._hdfs.write("/donefile", b"")
        yield True


def _packed(weights):
    packed, content = io.BytesIO(), weights.encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("trained/weights")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def settled_sensor(last):
    """Wait with a sensor, as long as it takes an empty donefile to settle."""
    return sensor(last_seen=last, poke_interval=0.05, timeout=30).execute({})


def test_seeds_own_order_is_consumed(place, hdfs):
    """The seed's order of remove, put and fresh empty donefile delivers each model once, and none in between."""
    producer, last = SeedProducer(hdfs.administrator), None
    for weights in ("v1", "v2", "v3"):
        before = place.live_weights()
        for complete in producer.steps(weights):
            if complete:
                continue
            with pytest.raises(AirflowSensorTimeout):
                sensor(last_seen=last).execute({})
            # a run that is started by hand in the middle may find nothing, but never half of something
            if not hdfs.administrator.status("/donefile", strict=False):
                with pytest.raises(NotThereYet):
                    reload(place)
            assert place.live_weights() == before
        last = settled_sensor(last)
        assert last["size"] == 0
        assert reload(place, donefile=last)["changed"]
        assert place.live_weights() == weights
        assert not reload(place)["changed"]


async def test_trigger_follows_the_seeds_order(place, hdfs):
    """The trigger looks through every moment of the seed's order, and gives exactly one event for each upload."""
    producer = SeedProducer(hdfs.administrator)
    trigger = DonefileTrigger(conn_id="model_store", remote_path="/", poke_interval=0.02)
    events, seen = trigger.run(), []
    for weights in ("v1", "v2"):
        for _ in producer.steps(weights):
            pass
        seen.append((await anext(events)).payload)
        assert reload(place, donefile=seen[-1])["changed"]
        assert place.live_weights() == weights
    assert seen[0] != seen[1]
    await events.aclose()
    await trigger.cleanup()


@BY_NETWORK
def test_namenodes_are_many(place, connection, connect):
    """A connection can name several NameNodes, one also twice, of which the first that can answer does."""
    connect(connection, host=f"127.0.0.1:1,127.0.0.1:1,{connection['host']}")
    place.upload("v1", **REMOTE)
    assert reload(place)["changed"]


@BY_NETWORK
def test_connection_without_host_is_refused(place, connection, connect):
    """A connection without a host says what it lacks."""
    connect(connection, host="")
    with pytest.raises(Refused, match="no host"):
        sensor().execute({})


def test_wrong_timeout_is_refused(place, connection, connect):
    """A timeout that is no number of seconds is refused."""
    connect(connection, extra={"timeout": "soon"})
    with pytest.raises(Refused, match="timeout"):
        sensor().execute({})


@BY_NETWORK
def test_missing_package_is_refused(place, connection, monkeypatch):
    """Where the extra is not installed the message says how to install it."""
    package = {"webhdfs": "hdfs", "hdfs_native": "hdfs_native"}[connection["conn_type"]]
    monkeypatch.delitem(sys.modules, f"airflow_serving_reload.delivery.stores.{connection['conn_type']}", False)
    monkeypatch.delattr(stores, connection["conn_type"], raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    extra = package.replace("_", "-")
    with pytest.raises(Refused, match=rf"airflow-serving-reload\[{extra}\]"):
        open_store("model_store", "/")


@BY_NETWORK
def test_other_user_is_refused_by_the_native_protocol(place, connection, connect):
    """The native protocol's client cannot be another user than the process, and says so; WebHDFS can."""
    connect(connection, login="somebody")
    if connection["conn_type"] == "webhdfs":
        with open_store("model_store", "/") as store, pytest.raises(NotThereYet):
            store.stat("/donefile")
    else:
        with pytest.raises(Refused, match="HADOOP_USER_NAME=somebody"):
            open_store("model_store", "/")


@pytest.mark.parametrize("verify", ["authority", False, "False", True, None, ""])
def test_webhdfs_over_tls(workplace, hdfs, connect, verify):
    """TLS is verified unless the connection says otherwise, by the authorities that it names; empty fields do not."""
    host, port = hdfs.namenode.https
    extra = {"use_ssl": True, "verify": str(hdfs.authority) if verify == "authority" else verify}
    extra |= {"timeout": None, "parallel": None}
    connect({"conn_type": "webhdfs", "host": host, "port": port, "login": USER}, extra=extra)
    if verify in (True, None, ""):
        with pytest.raises(Refused, match="certificate"):
            workplace.upload("v1", **REMOTE)
        return
    workplace.upload("v1", **REMOTE)
    assert reload(workplace)["changed"]


def test_password_is_never_shown(workplace, connect, caplog):
    """A password for a gateway that cannot be reached is in no message and no log."""
    caplog.set_level("DEBUG")
    fields = {"conn_type": "webhdfs", "host": "127.0.0.1", "port": 1, "login": USER, "password": PASSWORD}
    connect(fields)
    with pytest.raises(StoreUnreachable) as caught, open_store("model_store", "/") as store:
        store.stat("/donefile")
    assert PASSWORD not in f"{caught.value}{caplog.text}"
