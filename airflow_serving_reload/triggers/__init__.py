"""Triggers: see a donefile change from the triggerer, for assets and for deferred sensors."""

from airflow_serving_reload.triggers.donefile import DonefileTrigger, donefile_asset

__all__ = ["DonefileTrigger", "donefile_asset"]
