"""Archives: packed while they are sent, unpacked while they come, and never trusted.

`unpacking` reads the formats, `destination` lets nothing out of the folder that they unpack into, `unchanged` links
what an earlier release has already, `packing` makes them.
"""

from airflow_serving_reload.delivery.archive.destination import DEFAULT_LIMITS, Limits
from airflow_serving_reload.delivery.archive.packing import is_archive_name, pack
from airflow_serving_reload.delivery.archive.unchanged import Unchanged
from airflow_serving_reload.delivery.archive.unpacking import Contents, find_folder, unpack

__all__ = ["DEFAULT_LIMITS", "Contents", "Limits", "Unchanged", "find_folder", "is_archive_name", "pack", "unpack"]
