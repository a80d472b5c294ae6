"""What connections of several types have in common: fields that were left empty, certificates."""

from __future__ import annotations

import json

import pytest

from airflow_serving_reload.connections import open_session, open_store

CONN_ID = "model_store"


def connect(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """Put a connection into the environment."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(fields))


@pytest.mark.parametrize(
    ("verify", "used"), [(None, True), ("", True), (True, True), (False, False), ("/ca.pem", "/ca.pem")]
)
def test_empty_field_switches_no_verification_off(monkeypatch, verify, used):
    """Over HTTP certificates are verified where Airflow's page has stored that nothing was said about it."""
    extra = {"verify": verify, "timeout": None, "parallel": None}
    connect(monkeypatch, conn_type="http", host="https://127.0.0.1", extra=extra)
    with open_session(CONN_ID) as client:
        assert client.session.verify == used
    open_store(CONN_ID, "/models").close()


@pytest.mark.parametrize(
    ("extra", "used"), [({}, None), ({"verify": "/ca.pem"}, "/ca.pem"), ({"verify": False}, False)]
)
def test_certificates_of_s3_are_verified_as_the_connection_says(monkeypatch, extra, used):
    """An S3 server is known by the authorities that its connection names, as Airflow's own hook knows it."""
    settings = {"endpoint_url": "https://127.0.0.1:1", "region_name": "us-east-1", **extra}
    connect(monkeypatch, conn_type="aws", login="key", password="secret", extra=settings)
    with open_store(CONN_ID, "s3://bucket/models") as store:
        assert store._fs.client_kwargs.get("verify") == used
