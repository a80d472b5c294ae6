"""Hooks of the connection types that Airflow lacks: what its connection page shows and tests."""

from __future__ import annotations

from airflow_serving_reload.hooks.store import HadoopCliHook, HdfsNativeHook, WebHdfsHook

__all__ = ["HadoopCliHook", "HdfsNativeHook", "WebHdfsHook"]
