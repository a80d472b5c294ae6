"""The two Dags that a bench times: they do the same, in one task and in four."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_serving_reload.demo.example import POKE_INTERVAL, SERVER, SERVING_PATH
from airflow_serving_reload.operators import (
    DownloadModelOperator,
    PublishModelOperator,
    TouchTimestampOperator,
    UnpackModelOperator,
    serving_reload_dag,
)
from airflow_serving_reload.triggers import donefile_asset

ARCHIVE, MODEL = "uci_housing.tar.gz", "uci_housing_model"
PUBLISHED = {"local_path": SERVING_PATH, "local_model_name": MODEL}

one_task = serving_reload_dag(
    "one_task",
    conn_id="model_store",
    remote_path="/one_task",
    remote_model_name=ARCHIVE,
    unpacked_filename=MODEL,
    interval=POKE_INTERVAL,
    server=SERVER,
    **PUBLISHED,
)

STORE = {"conn_id": "model_store", "remote_path": "/four_tasks"}

with DAG(
    "four_tasks",
    schedule=[donefile_asset("four_tasks donefile", **STORE, poke_interval=POKE_INTERVAL)],
    max_active_runs=1,
) as four_tasks:
    download = DownloadModelOperator(task_id="download", **STORE, remote_model_name=ARCHIVE, local_path=SERVING_PATH)
    unpack = UnpackModelOperator(task_id="unpack", packed_path=download.output, unpacked_filename=MODEL)
    publish = PublishModelOperator(task_id="publish", unpacked_path=unpack.output, **PUBLISHED)
    publish >> TouchTimestampOperator(task_id="touch", **PUBLISHED)
