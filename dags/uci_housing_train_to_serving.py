"""The whole way in one Dag, step by step: train, upload, wait for the donefile, publish, reload, confirm."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowSkipException

from airflow_serving_reload.demo.example import POKE_INTERVAL, SERVER, SERVING_PATH, TRAINING_FORM, TrainHousingOperator
from airflow_serving_reload.operators import (
    DownloadModelOperator,
    PublishModelOperator,
    RollbackModelOperator,
    TouchTimestampOperator,
    UnpackModelOperator,
    UploadModelOperator,
)
from airflow_serving_reload.sensors import DonefileSensor, ReloadConfirmedSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

STORE = {"conn_id": "model_store", "remote_path": "/models/uci_housing_steps"}
MODEL = {"local_path": SERVING_PATH, "local_model_name": "uci_housing_model"}
LIVE = Asset("uci_housing live, step by step")


def skip_unless_published(context: Context) -> None:
    """Leave the live model alone where this run did not replace it: failed steps before count as failed here, too."""
    instance = context["ti"]
    states = instance.get_task_states(dag_id=instance.dag_id, run_ids=[instance.run_id], task_ids=["publish_model"])
    if states[instance.run_id].get("publish_model") != "success":
        raise AirflowSkipException("nothing was published in this run, so there is nothing to roll back")


with DAG(
    "uci_housing_train_to_serving",
    dag_display_name="Housing: from training to serving",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["uci_housing", "training", "serving"],
    params=TRAINING_FORM,
    doc_md="""
    ### From training to serving, step by step

    The upper half trains Paddle's housing regression and uploads the model, then its donefile. The lower half waits
    until the donefile is another one than the one delivered last, downloads and unpacks the model, publishes it,
    touches the timestamp file, and waits until the server is proved to answer with the new model. If the server
    cannot load it, the previous release is put back, and the run fails.

    All steps behind the donefile have to run on the serving host. Where workers are many, use the one-task
    operator, as *Housing: reload the server* does.
    """,
) as dag:
    train = TrainHousingOperator(task_id="train_model", task_display_name="Train the model", folder="train_to_serving")
    upload = UploadModelOperator(
        task_id="upload_model",
        task_display_name="Upload the model, then its donefile",
        **STORE,
        local_model_path=train.output,
        remote_model_name="uci_housing.tar.gz",
        version="{{ params.version or '' }}",
    )
    donefile = DonefileSensor(
        task_id="wait_for_donefile",
        task_display_name="Wait for the donefile",
        **STORE,
        model_asset=LIVE,
        poke_interval=POKE_INTERVAL,
        timeout=600,
    )
    download = DownloadModelOperator(
        task_id="download_model",
        task_display_name="Download the model",
        **STORE,
        remote_model_name="uci_housing.tar.gz",
        local_path=SERVING_PATH,
        donefile=donefile.output,
    )
    unpack = UnpackModelOperator(
        task_id="unpack_model",
        task_display_name="Unpack the model",
        packed_path=download.output,
        unpacked_filename="uci_housing_model",
    )
    publish = PublishModelOperator(
        task_id="publish_model",
        task_display_name="Publish the release",
        unpacked_path=unpack.output,
        **MODEL,
    )
    touch = TouchTimestampOperator(
        task_id="touch_timestamp",
        task_display_name="Touch the timestamp file",
        **MODEL,
    )
    confirm = ReloadConfirmedSensor(
        task_id="confirm_reload",
        task_display_name="Confirm the reload",
        server=SERVER,
        release=publish.output,
        since=touch.output,
        model_asset=LIVE,
        donefile=donefile.output,
        retries=0,
        timeout=300,
    )
    model_is_live = EmptyOperator(task_id="model_is_live", task_display_name="The new model is live")
    roll_back = RollbackModelOperator(
        task_id="roll_back",
        task_display_name="Put the previous release back",
        **MODEL,
        server=SERVER,
        trigger_rule="one_failed",
        pre_execute=skip_unless_published,
    )

    upload >> donefile
    publish >> touch >> confirm >> [model_is_live, roll_back]
