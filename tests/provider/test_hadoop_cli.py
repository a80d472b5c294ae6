"""Connections of type `hadoop_cli`, and the hooks behind the forms of Airflow's connection page.

What operators, the sensor, the trigger and the Dag do by such a connection is in `test_hdfs.py`, for all types alike.
"""

from __future__ import annotations

import importlib
import json

import pytest
from airflow.sdk import Connection

from airflow_serving_reload.connections import hadoop_cli, open_store
from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.hooks import HadoopCliHook, HdfsNativeHook, WebHdfsHook
from airflow_serving_reload.provider_info import get_provider_info
from airflow_serving_reload.sensors import DonefileSensor
from tests.contract.bench import PASSWORD, USER

TYPES = {form["connection-type"]: form for form in get_provider_info()["connection-types"]}


@pytest.fixture
def connect(monkeypatch):
    """Give what makes a connection out of its fields."""

    def connect(**fields):
        monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps({"conn_type": "hadoop_cli", **fields}))

    return connect


def client_of(**fields):
    """Give how the client is run by a connection."""
    return hadoop_cli.open_store(Connection(conn_id="model_store", conn_type="hadoop_cli", **fields))._client


def test_empty_connection_leaves_everything_to_the_client():
    """Without any field it is the program `hadoop` of the PATH, with its own configuration."""
    client = client_of()
    assert (client.hadoop_bin, client.timeout) == ("hadoop", 60)
    assert client.properties() == {}


@pytest.mark.parametrize("config", [{"dfs.replication": 2, "a": True}, '{"dfs.replication": "2", "a": "true"}'])
def test_fields_are_options_of_the_client(config):
    """Each field of the form reaches the client, the options as JSON or as its text."""
    extra = json.dumps({"hadoop_bin": "/opt/hadoop", "timeout": "7", "config": config})
    client = client_of(host="afs://models:9902", password="trainer,secret", extra=extra)
    assert (client.hadoop_bin, client.fs_name, client.fs_ugi, client.timeout) == (
        "/opt/hadoop",
        "afs://models:9902",
        "trainer,secret",
        7,
    )
    assert client.options == {"dfs.replication": "2", "a": "true"}


def test_address_that_came_in_pieces_is_joined():
    """A connection that was written as a URI has the port of the file system in a field of its own."""
    assert client_of(host="hdfs://namenode", port=8020).fs_name == "hdfs://namenode:8020"


@pytest.mark.parametrize("config", ["no JSON", "[1]", [1]])
def test_options_that_are_none_are_refused(config):
    """Options that are no object of JSON are refused, and the message says what they have to look like."""
    with pytest.raises(Refused, match="config in its extra"):
        client_of(extra=json.dumps({"config": config}))


def test_password_is_never_shown(hdfs, hadoop_program, connect, caplog, capsys):
    """The password is in nothing that a task logs or raises, be the connection good or not."""
    caplog.set_level("DEBUG")
    extra = {"hadoop_bin": str(hadoop_program), "config": {"ipc.client.connect.max.retries": 0}}
    raised = ""
    for host in (hdfs.url, "hdfs://127.0.0.1:1", "afs://nobody"):
        connect(host=host, password=f"{USER},{PASSWORD}", extra=extra)
        try:
            DonefileSensor(task_id="wait", conn_id="model_store", remote_path="/", timeout=0).execute({})
        except Exception as error:  # noqa: BLE001 - whatever it is must not tell
            raised += f"{error!r}"
    assert raised
    assert PASSWORD not in raised + caplog.text + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"extra": {"hadoop_bin": "/nowhere/hadoop"}}, "there is no such program"),
        ({"extra": {"hadoop_bin": "/etc/passwd"}}, "is not executable"),
        ({"extra": {"timeout": "soon"}}, "timeout"),
        ({"host": "afs://nobody"}, 'No FileSystem for scheme "afs"'),
        ({"host": "hdfs://127.0.0.1:1"}, "Connection refused"),
    ],
)
def test_connection_test_says_what_is_wrong(fields, words, connect, hadoop_program):
    """The button of the connection page says what is wrong."""
    extra = {"hadoop_bin": str(hadoop_program), "config": {"ipc.client.connect.max.retries": 0}}
    connect(**{"host": "", **fields, "extra": {**extra, **fields.get("extra", {})}})
    good, message = HadoopCliHook("model_store").test_connection()
    assert not good
    assert words in message


def test_connection_test_says_who_may_not(hdfs, hadoop_program, connect):
    """The button of the connection page tells a user who may not even look."""
    hdfs.administrator.set_permission("/", "700")
    try:
        connect(host=hdfs.url, password=f"{USER},{PASSWORD}", extra={"hadoop_bin": str(hadoop_program)})
        good, message = HadoopCliHook("model_store").test_connection()
    finally:
        hdfs.administrator.set_permission("/", "777")
    assert not good
    assert f"user={USER}" in message
    assert "fs_ugi" in message


@pytest.mark.parametrize("hook", [HadoopCliHook, HdfsNativeHook, WebHdfsHook])
def test_connection_test_succeeds(hook, hdfs, hadoop_program, connect, monkeypatch):
    """The button of the connection page says that all is well, for each type, by the way that Airflow takes."""
    hdfs.administrator.write("/donefile", b"")
    host, port = hdfs.namenode.http if hook is WebHdfsHook else hdfs.namenode.rpc
    fields = {"host": hdfs.url, "extra": {"hadoop_bin": str(hadoop_program)}}
    if hook is not HadoopCliHook:
        fields = {"host": host, "port": port}
    connect(**{**fields, "conn_type": hook.conn_type})
    good, message = hook(**{hook.conn_name_attr: "model_store"}).test_connection()
    assert good, message
    assert "1" in message


@pytest.mark.parametrize("form", TYPES.values(), ids=TYPES)
def test_forms_lead_to_their_hooks(form):
    """Each form names a hook of its type, by which Airflow tests the connection."""
    module, _, name = form["hook-class-name"].rpartition(".")
    hook = getattr(importlib.import_module(module), name)
    assert (hook.conn_type, hook.hook_name) == (form["connection-type"], form["hook-name"])


def test_webhdfs_is_left_to_airflows_own_provider(monkeypatch):
    """Where Airflow's own provider for HDFS is installed, its form and hook are the ones of `webhdfs`."""
    monkeypatch.setattr("airflow_serving_reload.provider_info.find_spec", lambda _module: object())
    assert "webhdfs" not in {form["connection-type"] for form in get_provider_info()["connection-types"]}


def test_store_is_opened_by_the_type(connect):
    """A connection of the type opens a store, without asking anybody."""
    connect(host="hdfs://namenode:8020")
    assert open_store("model_store", "/").describe("/donefile") == "hdfs://namenode:8020/donefile"
