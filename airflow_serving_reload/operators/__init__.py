"""Operators: upload a model, deliver it in one task or step by step, roll it back; and the whole Dag in one call."""

from airflow_serving_reload.delivery.servers.open_inference import OpenInferenceServer
from airflow_serving_reload.delivery.servers.paddle import PaddleServer
from airflow_serving_reload.operators.dag import serving_reload_dag
from airflow_serving_reload.operators.reload import ReloadModelOperator, RollbackModelOperator
from airflow_serving_reload.operators.steps import (
    DownloadModelOperator,
    PublishModelOperator,
    TouchTimestampOperator,
    UnpackModelOperator,
)
from airflow_serving_reload.operators.upload import UploadModelOperator

__all__ = [
    "DownloadModelOperator",
    "OpenInferenceServer",
    "PaddleServer",
    "PublishModelOperator",
    "ReloadModelOperator",
    "RollbackModelOperator",
    "TouchTimestampOperator",
    "UnpackModelOperator",
    "UploadModelOperator",
    "serving_reload_dag",
]
