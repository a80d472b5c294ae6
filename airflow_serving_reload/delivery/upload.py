"""The way up: a model, and only when it is whole in the store, its donefile."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from airflow_serving_reload.delivery import archive, transfer
from airflow_serving_reload.delivery.donefile import DonefileVersion
from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable
from airflow_serving_reload.delivery.filesystem import walk_files
from airflow_serving_reload.delivery.stores.base import Store, child

DonefileFormat = Literal["json", "empty"]
"""What is written into a donefile: what it announces, or nothing, as Paddle Serving's own example does."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What was uploaded, and the version of the donefile that announces it."""

    model: str
    moved: transfer.Moved
    donefile: DonefileVersion

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict of plain values."""
        return {
            "model": self.model,
            "bytes": self.moved.total_bytes,
            "sha256": self.moved.sha256,
            "files": self.moved.files,
            "donefile": self.donefile.to_dict(),
        }


def upload(
    store: Store,
    path: str,
    source: Path,
    *,
    model: str,
    donefile: str,
    donefile_format: DonefileFormat = "json",
    version: str | None = None,
) -> Uploaded:
    """Upload a model and then its donefile, each under a temporary name first where the store can rename.

    A folder is packed on its way if the model's name ends like an archive's, else it is uploaded file by file.

    :param path: folder in the store.
    :param source: the model on this host: an archive, or a folder.
    :param model: name of the model in the store.
    :param donefile: name of the donefile.
    :param version: what training calls the model; None for the time of the upload.
    :raises Refused: there is no such model on this host, it cannot be read, or the store does not allow it.
    """
    if donefile_format not in ("json", "empty"):
        raise Refused(f"uploading {source}: donefile_format is {donefile_format!r}; set it to 'json' or 'empty'")
    created = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    moved = _send_model(store, child(path, model), source)
    announced = {
        "model": model,
        "version": version or created,
        "sha256": moved.sha256,
        "size": moved.total_bytes,
        "files": moved.files,
        "created": created,
    }
    content = json.dumps(announced, indent=2) + "\n" if donefile_format == "json" else ""
    store.write(child(path, donefile), io.BytesIO(content.encode()))
    written = store.donefile(child(path, donefile))
    if written is None:
        raise StoreUnreachable(
            f"uploading {store.describe(child(path, donefile))}: the store took it but has none now; "
            "see whether something else removes it"
        )
    return Uploaded(model, moved, written)


def _send_model(store: Store, path: str, source: Path) -> transfer.Moved:
    if source.is_file():
        with transfer.opened(source) as file:
            return transfer.send(store, path, file, total=source.stat().st_size)
    if not source.is_dir():
        raise Refused(f"uploading {source}: there is no such file or folder on this host; check local_model_path")
    try:
        is_empty = next(walk_files(source), None) is None
    except OSError as error:
        raise transfer.unreadable(error) from error
    if is_empty:
        raise Refused(f"uploading {source}: there is no file in it; see whether training has made the model")
    if not archive.is_archive_name(path):
        return transfer.send_folder(store, path, source)
    with archive.pack(source, path.rpartition("/")[2]) as packed:
        return transfer.send(store, path, packed)
