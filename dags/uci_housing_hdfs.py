"""The example of Paddle Serving's document on HDFS, both halves: train, upload, notice, pull, reload."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset

from airflow_serving_reload.demo.example import POKE_INTERVAL, SERVER, SERVING_PATH, TRAINING_FORM, TrainHousingOperator
from airflow_serving_reload.operators import ReloadModelOperator, UploadModelOperator
from airflow_serving_reload.sensors import DonefileSensor

STORE = {"conn_id": "hadoop_store", "remote_path": "/", "remote_donefile_name": "donefile"}
LIVE = Asset("uci_housing live, by HDFS")

with DAG(
    "uci_housing_hdfs",
    dag_display_name="Housing: through HDFS",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["uci_housing", "training", "serving", "hdfs"],
    params=TRAINING_FORM,
    doc_md="""
    ### Train, and reload the server, through HDFS

    The producing half trains the housing model and puts `uci_housing.tar.gz` and then an empty `donefile` into `/`.
    The serving half waits until the donefile is another one than the one delivered last, pulls the model, and reloads
    the server: what `python -m paddle_serving_server.monitor --type=hdfs` does with the same arguments.

    The connection `hadoop_store` is of type *Hadoop client*, with `hadoop_bin`, `fs_name` and `fs_ugi`; one of type
    `webhdfs` or `hdfs_native` does as well, and needs no Java.
    """,
) as dag:
    train = TrainHousingOperator(task_id="train_model", task_display_name="Train the model", folder="train_for_hdfs")
    upload = UploadModelOperator(
        task_id="upload_model",
        task_display_name="Upload the model, then its donefile",
        **STORE,
        local_model_path=train.output,
        remote_model_name="uci_housing.tar.gz",
        donefile_format="empty",
    )
    donefile = DonefileSensor(
        task_id="wait_for_donefile",
        task_display_name="Wait for the donefile",
        **STORE,
        model_asset=LIVE,
        poke_interval=POKE_INTERVAL,
        timeout=600,
    )
    upload >> donefile
    ReloadModelOperator(
        task_id="reload_model",
        task_display_name="Reload the model",
        **STORE,
        remote_model_name="uci_housing.tar.gz",
        local_path=SERVING_PATH,
        local_model_name="uci_housing_model",
        local_timestamp_file="fluid_time_file",
        local_tmp_path="_tmp",
        unpacked_filename="uci_housing_model",
        server=SERVER,
        model_asset=LIVE,
        donefile=donefile.output,
    )
