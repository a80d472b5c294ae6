"""Sensors: wait for a new donefile, and for the proof of a reload."""

from airflow_serving_reload.delivery.servers.open_inference import OpenInferenceServer
from airflow_serving_reload.delivery.servers.paddle import PaddleServer
from airflow_serving_reload.sensors.donefile import DonefileSensor
from airflow_serving_reload.sensors.reload import ReloadConfirmedSensor

__all__ = ["DonefileSensor", "OpenInferenceServer", "PaddleServer", "ReloadConfirmedSensor"]
