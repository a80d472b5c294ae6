"""Trains the housing model on a schedule and puts it into the store: the producing half."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_serving_reload.demo.example import TRAINING_FORM, TRAINING_SCHEDULE, TrainHousingOperator
from airflow_serving_reload.operators import UploadModelOperator

with DAG(
    "uci_housing_train",
    dag_display_name="Housing: train and upload",
    schedule=TRAINING_SCHEDULE,
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["uci_housing", "training"],
    params=TRAINING_FORM,
    doc_md="""
    ### Train the housing model and upload it

    Trains Paddle's linear regression on the 506 houses of the Boston housing data, then uploads
    `uci_housing.tar.gz` and, only after it, `donefile` to the store behind the connection `model_store`.

    *Housing: reload the server* notices the new donefile and brings the model to the server.
    """,
) as dag:
    train = TrainHousingOperator(task_id="train_model", task_display_name="Train the model", folder="train")
    UploadModelOperator(
        task_id="upload_model",
        task_display_name="Upload the model, then its donefile",
        conn_id="model_store",
        local_model_path=train.output,
        remote_path="/models/uci_housing",
        remote_model_name="uci_housing.tar.gz",
        remote_donefile_name="donefile",
        version="{{ params.version or '' }}",
    )
