"""Releases: complete models on the serving host, made live by one rename, kept to roll back to.

`releases` stages, publishes, prunes and finds them, `record` is what is remembered of each, `in_place` publishes where
a link cannot serve.
"""

from airflow_serving_reload.delivery.release.record import Record
from airflow_serving_reload.delivery.release.releases import PublishMode, Releases, models_in

__all__ = ["PublishMode", "Record", "Releases", "models_in"]
