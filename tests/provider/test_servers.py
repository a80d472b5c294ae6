"""The operators and the sensor with a real MLServer, by its connection alone: behind TLS and a password."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSensorTimeout

from airflow_serving_reload.delivery.errors import DeliveryError, Refused, ReloadRefused
from airflow_serving_reload.operators import (
    OpenInferenceServer,
    PublishModelOperator,
    ReloadModelOperator,
    RollbackModelOperator,
)
from airflow_serving_reload.sensors import ReloadConfirmedSensor
from tests.contract.bench import PASSWORD, USER, WRONG_PASSWORD
from tests.servers.bench import ARCHIVE
from tests.servers.front import READER, Front
from tests.servers.mlserver import QUESTION, MlServer, MlServerBench

pytestmark = pytest.mark.xdist_group("mlserver")

CONN_ID = "mlserver"

Connect = Callable[..., None]


@pytest.fixture(scope="module")
def front(mlserver: MlServer, processes, tmp_path_factory: pytest.TempPathFactory) -> Front:
    """Put nginx before the server."""
    return Front.start(processes, tmp_path_factory.mktemp("front"), mlserver.url)


@pytest.fixture
def connect(front: Front, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Give what makes the connection, with changes."""

    def connect(**changes: Any) -> None:
        fields = {
            "conn_type": "http",
            "schema": "https",
            "host": front.address.host,
            "port": front.address.port,
            "login": USER,
            "password": PASSWORD,
            "extra": {"verify": str(front.authority)},
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps({**fields, **changes}))

    connect()
    return connect


@pytest.fixture
def bench(mlserver: MlServer, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlServerBench:
    """Give a model of its own, and a connection to its store."""
    bench = mlserver.bench(tmp_path, http_conn_id=CONN_ID)
    store = {"conn_type": "fs", "extra": {"path": str(bench.store)}}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps(store))
    return bench


def local(bench: MlServerBench) -> dict[str, Any]:
    """Give the arguments that say where the model is on the host."""
    return {"local_path": str(bench.local.path), "local_model_name": bench.name}


def reload(bench: MlServerBench, server: OpenInferenceServer | None = None) -> dict[str, Any]:
    """Deliver what was uploaded last, in one task."""
    return ReloadModelOperator(
        task_id="reload",
        conn_id="model_store",
        remote_path="/",
        remote_model_name=ARCHIVE,
        unpacked_filename="model",
        server=server or bench.describe(),
        **local(bench),
    ).execute({})


def test_reload_and_roll_back(bench: MlServerBench) -> None:
    """A release is delivered and confirmed, then rolled back by a task of its own, and no request fails."""
    first = bench.live()
    bench.upload("good")
    with bench.asked_without_pause():
        outcome = reload(bench)
        assert outcome["confirmed"]
        assert bench.served() == outcome["release"]
        back = RollbackModelOperator(task_id="back", server=bench.describe(), **local(bench)).execute({})
        assert back["confirmed"]
        assert bench.served() == back["release"] == first
        again = RollbackModelOperator(
            task_id="again", server=bench.describe(), release=outcome["release"], **local(bench)
        ).execute({})
        assert bench.served() == again["release"] == outcome["release"]


def test_a_release_that_cannot_be_loaded(bench: MlServerBench) -> None:
    """The task fails with what the server answered, and the release that worked is live again."""
    first = bench.live()
    bench.upload("bad", "corrupt")
    with pytest.raises(ReloadRefused, match=r"500 json.decoder.JSONDecodeError.*rolled back to .*, which the server"):
        reload(bench)
    assert bench.served() == bench.live() == first


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"password": WRONG_PASSWORD}, (Refused, "it answered 401 Unauthorized; check the connection's login")),
        ({"login": None, "password": None}, (Refused, "it answered 401 Unauthorized; check the connection's login")),
        ({"login": READER}, (Refused, "it answered 403 Forbidden; check the connection's login, and what it may do")),
        ({"extra": {}}, (Refused, "TLS was refused .*; check the certificates")),
        ({"schema": "http"}, (ReloadRefused, "it answered 400 Bad Request; see its log")),
        ({"extra": {"verify": "/no/such.pem"}}, (Refused, "check the connection's settings for TLS")),
        ({"port": 1}, (ReloadRefused, "the server cannot be reached .*; it was tried for 0 s")),
    ],
    ids=["password", "no login", "rights", "certificate", "plain", "authority", "down"],
)
def test_a_connection_that_does_not_do(
    changes: dict[str, Any],
    complaint: tuple[type[DeliveryError], str],
    bench: MlServerBench,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is wrong is told without the password, what was live is live again, and the old model answers."""
    first = bench.live()
    bench.upload("good")
    connect(**changes)
    fault, words = complaint
    with pytest.raises(fault, match=words) as refusal:
        reload(bench, bench.describe(ready_timeout=0))
    assert bench.served() == bench.live() == first
    told = f"{refusal.value!r} {caplog.text} {bench.releases.history()}"
    assert PASSWORD not in told
    assert WRONG_PASSWORD not in told


def test_credentials_in_the_address(bench: MlServerBench, connect: Connect, front: Front) -> None:
    """An address with login and password in it is used, and told without them."""
    host, port = front.address
    connect(host=f"https://{USER}:{PASSWORD}@{host}", port=port, login=None, password=None)
    bench.upload("good")
    assert reload(bench)["confirmed"]
    bench.upload("bad", "corrupt")
    with pytest.raises(ReloadRefused, match=f"at https://{host}:{port} to load it: it answered 500") as refusal:
        reload(bench)
    assert PASSWORD not in repr(refusal.value)


@pytest.mark.parametrize("connection", [None, "postgres"])
def test_no_connection_that_leads_to_a_server(
    connection: str | None, bench: MlServerBench, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is missing, or of another type, is told before anything is published."""
    first = bench.releases.live()
    bench.upload("good")
    if connection:
        connect(conn_type=connection)
    else:
        monkeypatch.delenv(f"AIRFLOW_CONN_{CONN_ID.upper()}")
    with pytest.raises((Refused, AirflowNotFoundException), match=r"type is 'postgres'|isn't defined"):
        reload(bench)
    assert bench.releases.live() == first
    assert len(bench.releases.history()) == 1


def confirm(bench: MlServerBench, **arguments: Any) -> Any:
    """Look once."""
    arguments = {"server": bench.describe(), "poke_interval": 0, "timeout": 0, **arguments}
    return ReloadConfirmedSensor(task_id="confirm", **arguments).execute({})


@pytest.fixture
def published(bench: MlServerBench) -> dict[str, Any]:
    """Publish a release without telling the server."""
    bench.upload("good")
    unpacked = bench.unpack()
    return PublishModelOperator(task_id="publish", unpacked_path=str(unpacked), **local(bench)).execute({})


@pytest.mark.parametrize("probe", [None, QUESTION], ids=["metadata", "probe"])
def test_waits_until_the_server_is_told(
    probe: dict[str, Any] | None, bench: MlServerBench, published: dict[str, Any]
) -> None:
    """What was published is confirmed once the server serves it: by its version in the metadata, or by a probe."""
    server = bench.describe(probe=probe)
    with pytest.raises(AirflowSensorTimeout):
        confirm(bench, server=server, release=published)
    bench.load()
    assert "it is ready, and answers as" in confirm(bench, server=server, release=published)


def test_a_release_by_its_name(bench: MlServerBench, published: dict[str, Any]) -> None:
    """A release's name alone is confirmed by a probe, and the metadata do not tell it, which is said."""
    bench.load()
    assert confirm(bench, server=bench.describe(probe=QUESTION), release=published["release"])
    assert confirm(bench, release=published["release"], donefile=published["donefile"])
    with pytest.raises(Refused, match="its answers do not tell"):
        confirm(bench, release=published["release"])


def test_server_is_rendered() -> None:
    """The fields of the description are rendered like those of the operator that carries it, the probe's too."""
    operator = RollbackModelOperator(
        task_id="r",
        local_path="p",
        local_model_name="m",
        server=OpenInferenceServer("{{ host }}", "model-{{ host }}", probe={"inputs": [{"name": "{{ host }}"}]}),
    )
    operator.render_template_fields({"host": "h1"})
    assert operator.server == OpenInferenceServer("h1", "model-h1", probe={"inputs": [{"name": "h1"}]})
