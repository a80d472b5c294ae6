"""FTP and FTPS behind a connection: every operator, the sensor, the trigger and the Dag factory, and what extras do."""

from __future__ import annotations

import ftplib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_serving_reload.connections import open_store
from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import Store
from airflow_serving_reload.operators import (
    ReloadModelOperator,
    RollbackModelOperator,
)
from airflow_serving_reload.sensors import DonefileSensor
from airflow_serving_reload.triggers import DonefileTrigger
from tests.contract.bench import PASSWORD, USER
from tests.contract.certificates import Authority
from tests.contract.ftp_script import SILENCE, ScriptedFtp
from tests.contract.ftp_servers import EVERYTHING, PyFtpServer, tls_handler

from .test_trigger import running

IDLE_SECONDS = 0.3
"""After so long without a command the server hangs up: between two looks of everything that waits here."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make what signs the server's certificate."""
    return Authority(tmp_path)


@pytest.fixture
def plain(workplace) -> Iterator[PyFtpServer]:
    """Serve the store over FTP."""
    with PyFtpServer(workplace.store, timeout=IDLE_SECONDS).running() as server:
        yield server


@pytest.fixture
def secure(workplace, authority, tmp_path) -> Iterator[PyFtpServer]:
    """Serve the store over FTPS alone."""
    arguments = tls_handler(authority, tmp_path, timeout=IDLE_SECONDS)
    with PyFtpServer(workplace.store, **arguments).running() as server:
        yield server


def connect(monkeypatch, server, **fields):
    """Make the connection lead to a server."""
    connection = {"conn_type": "ftp", "host": server.address.host, "port": server.address.port, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps(connection))


@pytest.fixture(params=["password", "anonymous", "tls"])
def over_ftp(request, workplace, authority, monkeypatch):
    """Put the workplace's store behind FTP: with a password, without a login, and with TLS."""
    server = request.getfixturevalue("secure" if request.param == "tls" else "plain")
    login = {"login": USER, "password": PASSWORD}
    if request.param == "anonymous":
        login = {}
        server.authorizer.user_table["anonymous"]["perm"] = EVERYTHING
    extra = {"tls": True, "verify": str(authority.certificate)} if request.param == "tls" else {}
    connect(monkeypatch, server, **login, extra=extra)
    return workplace


def reload(workplace, **arguments):
    """Deliver the model in one task."""
    arguments = {**workplace.remote, **workplace.local, "unpacked_filename": "trained", **arguments}
    return ReloadModelOperator(task_id="reload", **arguments).execute({})


def sensor(**arguments):
    """Make a sensor that gives up at once."""
    arguments = {"conn_id": "model_store", "remote_path": "/models", "poke_interval": 0, "timeout": 0, **arguments}
    return DonefileSensor(task_id="wait", **arguments)


def store() -> Store:
    """Open the store behind the connection."""
    return open_store("model_store", "/models")


@pytest.mark.parametrize("donefile_format", ["json", "empty"])
def test_upload_and_one_task(over_ftp, caplog, capsys, donefile_format):
    """A model that is uploaded over FTP is delivered by the one-task operator, once, and no log shows the password."""
    caplog.set_level("DEBUG")
    uploaded = over_ftp.upload("v1", donefile_format=donefile_format)
    assert sorted(path.name for path in (over_ftp.store / "models").iterdir()) == ["donefile", "model.tar.gz"]
    outcome = reload(over_ftp)
    assert outcome["sha256"] == uploaded["sha256"]
    assert over_ftp.live_weights() == "v1"
    assert not reload(over_ftp)["changed"]
    over_ftp.upload("v2", donefile_format=donefile_format)
    assert reload(over_ftp)["changed"]
    assert over_ftp.live_weights() == "v2"
    RollbackModelOperator(task_id="back", **over_ftp.local).execute({})
    assert over_ftp.live_weights() == "v1"
    shown = capsys.readouterr()
    assert PASSWORD not in caplog.text + shown.out + shown.err + json.dumps(outcome)


async def test_trigger(over_ftp, caplog):
    """The trigger sees each version once, though the server hangs up between its looks, and does not complain."""
    trigger = DonefileTrigger(conn_id="model_store", remote_path="/models", poke_interval=2 * IDLE_SECONDS)
    async with running(trigger) as next_event:
        with pytest.raises(TimeoutError):
            await next_event(0.2)
        for version in ("v1", "v2"):
            uploaded = over_ftp.upload(version)["donefile"]
            assert await next_event() == uploaded
            with pytest.raises(TimeoutError):
                await next_event(3 * IDLE_SECONDS)
    assert "fault" not in caplog.text


def test_trigger_reads_what_monitor_could(plain, workplace, monkeypatch):
    """A donefile that somebody else put there by hand, empty and without a login to ask for, is seen."""
    connect(monkeypatch, plain)
    (workplace.store / "models").mkdir()
    (workplace.store / "models" / "donefile").touch()
    assert sensor(timeout=60, poke_interval=0.1).execute({})["size"] == 0


# the connection


def test_connection_as_an_address(secure, workplace, authority, monkeypatch):
    """A connection that comes as an address, all of whose extras are text, is read like any other."""
    address = f"ftp://{USER}:{PASSWORD}@{secure.address.host}:{secure.address.port}/"
    extras = f"?tls=true&passive=true&timeout=20&verify={quote(str(authority.certificate))}"
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", address + extras)
    workplace.upload("v1")
    assert reload(workplace)["changed"]
    assert ftplib.FTP_TLS.port == ftplib.FTP_PORT, "the port must not leak into the clients of others"


def test_active_mode(plain, workplace, monkeypatch):
    """With `passive` off the server connects back."""
    connect(monkeypatch, plain, login=USER, password=PASSWORD, extra={"passive": "false"})
    workplace.upload("v1")
    assert any(line.startswith("PORT") for line in plain.commands)
    assert "PASV" not in plain.commands


def test_other_encoding(workplace, monkeypatch):
    """With `encoding` names are written in it."""
    with PyFtpServer(workplace.store, encoding="latin-1").running() as server:
        connect(monkeypatch, server, login=USER, password=PASSWORD, extra={"encoding": "latin-1"})
        workplace.upload("v1", remote_model_name="modèle.tar.gz")
    assert (workplace.store / "models" / "modèle.tar.gz").exists()


@pytest.mark.parametrize("verify", [False, "false"])
def test_unverified_certificate(secure, workplace, monkeypatch, verify):
    """With `verify` off any certificate will do."""
    connect(monkeypatch, secure, login=USER, password=PASSWORD, extra={"tls": True, "verify": verify})
    workplace.upload("v1")
    assert reload(workplace)["changed"]


@pytest.mark.parametrize(
    "extra",
    [
        {"tls": True},
        {"tls": "true", "verify": True},
        {"tls": True, "verify": "true"},
        {"tls": True, "verify": None, "timeout": None},
        {"tls": True, "verify": ""},
    ],
)
def test_certificates_are_verified(secure, monkeypatch, extra):
    """Unless the connection says otherwise, a certificate by an unknown authority is refused, before any login."""
    connect(monkeypatch, secure, login=USER, password=PASSWORD, extra=extra)
    with store() as opened, pytest.raises(Refused, match=r"certificate verify failed.*verify in the extra"):
        opened.donefile("/models/donefile")
    assert not [line for line in secure.commands if line.startswith(("USER", "PASS"))]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": ""}, "it has no host"),
        ({"extra": {"timeout": "soon"}}, "timeout in its extra is 'soon'"),
        ({"extra": {"timeout": 0}}, "timeout in its extra is 0"),
        ({"extra": {"timeout": -1}}, "timeout in its extra is -1"),
        ({"extra": {"encoding": "klingon"}}, "no encoding 'klingon'"),
        ({"extra": {"tls": True, "verify": "/no/such.pem"}}, "certificates /no/such.pem cannot be read"),
    ],
)
def test_unusable_connection_is_refused(plain, monkeypatch, fields, words):
    """A setting that cannot be used is refused, by name, before anything is sent."""
    connect(monkeypatch, plain, login=USER, password=PASSWORD, **fields)
    with pytest.raises(Refused, match=r"opening the connection 'model_store': .*; ") as refusal, store() as opened:
        opened.donefile("/models/donefile")
    assert words in str(refusal.value)
    assert PASSWORD not in str(refusal.value)
    assert plain.commands == []


@pytest.mark.parametrize("secret", ["zwei\nZeilen", "模", "模型"])
def test_unusable_password_is_refused(plain, monkeypatch, caplog, secret):
    """A password that cannot be sent is refused, and no letter of it is shown."""
    connect(monkeypatch, plain, login=USER, password=secret, extra={"encoding": "latin-1"})
    with pytest.raises(Refused, match=r"line break|encoding") as refusal:
        store().donefile("/models/donefile")
    shown = "".join(traceback.format_exception(refusal.value)) + caplog.text
    assert not any(part in shown for part in (*secret.split(), ascii(secret)[1:-1]))


@pytest.mark.parametrize("tls", [False, True])
def test_silent_server(workplace, monkeypatch, tls):
    """A server that takes the connection and says nothing is waited for no longer than `timeout`; nothing moves."""
    before = (workplace.serving / "model" / "fluid_time_file").stat().st_mtime_ns
    with ScriptedFtp({"WELCOME": SILENCE}).running() as server:
        connect(monkeypatch, server, extra={"timeout": 0.2, "tls": tls})
        with pytest.raises(StoreUnreachable, match="timed out"):
            reload(workplace)
        with pytest.raises(AirflowSensorTimeout):
            sensor().execute({})
    assert workplace.live_weights() == "initial"
    assert (workplace.serving / "model" / "fluid_time_file").stat().st_mtime_ns == before


def test_server_that_falls_silent_in_the_handshake(workplace, monkeypatch):
    """A server that agrees to TLS and then says nothing is waited for no longer than `timeout`."""
    with ScriptedFtp({"AUTH": "234 go on", "ELSE": SILENCE}).running() as server:
        connect(monkeypatch, server, extra={"timeout": 0.2, "tls": True})
        with pytest.raises(StoreUnreachable, match="timed out"):
            reload(workplace)


@pytest.mark.parametrize(
    ("login", "kind"),
    [
        ({"login": USER, "password": "battery-staple"}, Refused),
        ({"login": "nobody-here", "password": PASSWORD}, Refused),
        ({"login": USER, "password": PASSWORD}, NotThereYet),
    ],
)
def test_faults_move_nothing(plain, workplace, monkeypatch, login, kind):
    """A wrong login is refused and an absent folder is not there yet; what is live stays."""
    connect(monkeypatch, plain, **login)
    with pytest.raises(kind, match=r"login and password|no donefile") as fault:
        reload(workplace)
    assert login["password"] not in str(fault.value)
    assert workplace.live_weights() == "initial"


def test_upload_that_is_not_allowed(plain, workplace, monkeypatch):
    """An anonymous upload that the server does not allow is refused, and no donefile is written."""
    connect(monkeypatch, plain)
    with pytest.raises(Refused, match="550"):
        workplace.upload("v1")
    assert list(workplace.store.iterdir()) == []
