"""Runs when the donefile changes and brings the new model to the server: the serving half."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, Param

from airflow_serving_reload.demo.example import POKE_INTERVAL, SERVER, SERVING_PATH
from airflow_serving_reload.operators import ReloadModelOperator
from airflow_serving_reload.triggers import donefile_asset

with DAG(
    "uci_housing_reload",
    dag_display_name="Housing: reload the server",
    schedule=[
        donefile_asset(
            "uci_housing donefile",
            conn_id="model_store",
            remote_path="/models/uci_housing",
            poke_interval=POKE_INTERVAL,
        )
    ],
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10), "retry_exponential_backoff": True},
    tags=["uci_housing", "serving"],
    params={
        "force": Param(
            False,
            type="boolean",
            title="Force",
            description_md="Fetch and publish the model even if it is live already, or was rolled back from.",
        )
    },
    doc_md="""
    ### Bring the new housing model to the server

    The triggerer watches `donefile` in the store. As soon as it changes, one task on the serving host downloads
    and unpacks the model, verifies it, publishes it by one rename, moves the timestamp file that makes the server
    reload, and proves that the server answers with it. If the server does not, the old model is put back.

    Triggered by hand, it delivers what is in the store now.
    """,
):
    ReloadModelOperator(
        task_id="reload_model",
        task_display_name="Reload the model",
        conn_id="model_store",
        remote_path="/models/uci_housing",
        remote_model_name="uci_housing.tar.gz",
        local_path=SERVING_PATH,
        local_model_name="uci_housing_model",
        unpacked_filename="uci_housing_model",
        server=SERVER,
        model_asset=Asset("uci_housing live"),
        force="{{ params.force }}",
    )
