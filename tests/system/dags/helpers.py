"""Dags that only the system tests need: they take their arguments from the tests, or watch what nothing else does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, Param

from airflow_serving_reload.demo.example import SERVER, SERVING_PATH
from airflow_serving_reload.operators import ReloadModelOperator, UploadModelOperator
from airflow_serving_reload.sensors import DonefileSensor
from airflow_serving_reload.triggers import donefile_asset

SERVING: dict[str, Any] = {
    "remote_model_name": "uci_housing.tar.gz",
    "local_path": SERVING_PATH,
    "local_model_name": "uci_housing_model",
    "server": SERVER,
}
STORE: dict[str, Any] = {"conn_id": "{{ params.conn_id }}", "remote_path": "{{ params.remote_path }}"}
STORE_FORM: dict[str, Any] = {"conn_id": Param("model_store", type="string"), "remote_path": Param("", type="string")}
GUARDED: dict[str, Any] = {"conn_id": "guarded_store", "remote_path": "/models/guarded"}

with DAG("reload_anything", schedule=None, params={**STORE_FORM, "unpacked_filename": Param("uci_housing_model")}):
    ReloadModelOperator(
        task_id="reload_model",
        **STORE,
        **SERVING,
        unpacked_filename="{{ params.unpacked_filename }}",
        retries=1,
        retry_delay=timedelta(milliseconds=100),
    )

MAPPED_LIVE = Asset("mapped live")

with DAG("reload_mapped", schedule=None, params=STORE_FORM):
    ReloadModelOperator.partial(
        task_id="reload_model",
        **STORE,
        remote_model_name="uci_housing.tar.gz",
        local_path=f"{SERVING_PATH}/mapped",
        unpacked_filename="uci_housing_model",
        model_asset=MAPPED_LIVE,
        outlets=[MAPPED_LIVE],
    ).expand(local_model_name=["one"])

with DAG("live_listener", schedule=[Asset("uci_housing live")]):
    EmptyOperator(task_id="listen")

with DAG("wait_for_donefile", schedule=None, params={**STORE_FORM, "last_seen": Param(None, type=["null", "object"])}):
    for deferrable in (False, True):
        DonefileSensor(
            task_id="deferred" if deferrable else "poked",
            **STORE,
            last_seen="{{ params.last_seen | tojson if params.last_seen else '' }}",  # type: ignore[arg-type]
            poke_interval=1,
            deferrable=deferrable,
            timeout=120,
        )

with DAG("guarded_upload", schedule=None, params={"model": Param("", type="string")}):
    UploadModelOperator(
        task_id="upload_model",
        **GUARDED,
        local_model_path="{{ params.model }}",
        remote_model_name="uci_housing.tar.gz",
    )

with DAG("guarded_reload", schedule=[donefile_asset("guarded donefile", **GUARDED, poke_interval=1)]):
    ReloadModelOperator(task_id="reload_model", **GUARDED, **SERVING, unpacked_filename="uci_housing_model")
