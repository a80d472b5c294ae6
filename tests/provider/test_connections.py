"""What connections of several types have in common: fields that were left empty, certificates."""

from __future__ import annotations

import json

import pytest

from airflow_serving_reload.connections import open_session, open_store
from airflow_serving_reload.connections.settings import verification
from airflow_serving_reload.delivery.errors import Refused

CONN_ID = "model_store"


def connect(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """Put a connection into the environment."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(fields))


@pytest.mark.parametrize(
    ("verify", "used"),
    [
        *[(empty, True) for empty in (None, "", " ", {}, [])],
        *[(off, False) for off in (False, "false", " False", 0)],
        *[(on, True) for on in (True, "True", 1)],
        ("/ca.pem", "/ca.pem"),
    ],
)
def test_only_who_says_so_switches_verification_off(monkeypatch, verify, used):
    """What was left empty, which Airflow's page stores as null, verifies certificates, over HTTP as everywhere."""
    assert verification(verify) == used
    extra = {"verify": verify, "timeout": None, "parallel": None}
    connect(monkeypatch, conn_type="http", host="https://127.0.0.1", extra=extra)
    with open_session(CONN_ID) as client:
        assert client.session.verify == used
    open_store(CONN_ID, "/models").close()


@pytest.mark.parametrize("verify", ["authority", False, None, ""])
def test_certificates_of_s3_are_verified_as_the_connection_says(monkeypatch, servers, verify):
    """An S3 server is known by the authorities that its connection names, as Airflow's own hook knows it."""
    nginx = servers.nginx
    (nginx.files / "full" / "model.tar").write_bytes(b"model")
    extra = {
        "endpoint_url": f"https://127.0.0.1:{nginx.tls_address.port}",
        "region_name": "us-east-1",
        "verify": str(nginx.authority) if verify == "authority" else verify,
    }
    connect(monkeypatch, conn_type="aws", login="key", password="secret", extra=extra)
    with open_store(CONN_ID, "s3://full") as store:
        if verify in ("authority", False):
            assert store.stat("/model.tar").size == len(b"model")
            return
        with pytest.raises(Refused, match="certificate verify failed"):
            store.stat("/model.tar")
