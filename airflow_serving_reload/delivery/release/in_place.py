"""Publishing in place, where a link cannot serve: files are renamed into the model's folder one by one."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_serving_reload.delivery import filesystem
from airflow_serving_reload.delivery.errors import Refused

log = logging.getLogger(__name__)


class InPlace:
    """A folder that holds a copy of a release, and a file that says of which, or which one it is being changed to.

    Every method raises OSError where the host does not let it.

    :param model: the folder.
    :param state: that file.
    :param last: file in the folder, relative to it, that is put there behind all others.
    """

    def __init__(self, model: Path, state: Path, last: Path) -> None:
        self._model = model
        self._state = state
        self._last = last

    def is_used(self) -> bool:
        """Whether anything was ever published in place here."""
        return self._state.exists()

    def live(self) -> str | None:
        """Give the name of the release that is in the folder; None if nobody knows."""
        return self._read().get("live")

    def publish(self, release: Path, *, instead_of: str | None) -> None:
        """Change the folder into a copy of a release.

        :param instead_of: name of the release that it holds.
        """
        self.begin(release.name, instead_of=instead_of)
        self._fill(release)
        filesystem.replace_json(self._state, {"live": release.name})

    def begin(self, release: str, *, instead_of: str | None) -> None:
        """Note that the folder is being changed, so that `restore` changes it back."""
        filesystem.replace_json(self._state, {"live": instead_of, "publishing": release})

    def restore(self, releases: Path) -> None:
        """Change the folder back if a publication did not come to its end.

        :param releases: folder with all releases.
        :raises Refused: the release is gone that the folder is to hold; nothing in it is touched.
        """
        state = self._read()
        if "publishing" not in state:
            return
        live = state["live"]
        if live and not (releases / live).is_dir():
            raise Refused(
                f"restoring {live} in {self._model} after an unfinished publication: that release is gone; put it back "
                f"into {releases}, or remove {self._state}, after which what is in the model's place counts as whole"
            )
        log.warning("restoring %s in %s after an unfinished publication", live or "nothing", self._model)
        if live:
            self._fill(releases / live)
        else:
            self._keep(())
        filesystem.replace_json(self._state, {"live": live})

    def copy_to(self, folder: Path) -> bool:
        """Copy all that is in the folder, which is made if absent, into a new one.

        :return: False if there is nothing, for which no new one is made.
        """
        self._model.mkdir(parents=True, exist_ok=True)
        files = _files(self._model)
        if not files:
            return False
        folder.mkdir()
        for relative in files:
            filesystem.replace_with_copy(self._model / relative, folder / relative)
        return True

    def _read(self) -> dict[str, Any]:
        return filesystem.read_json(self._state) if self._state.exists() else {}

    def _fill(self, release: Path) -> None:
        """Rename copies of the release's files into the folder one by one, the timestamp file last."""
        wanted = sorted(_files(release), key=lambda relative: relative == self._last)
        for relative in wanted[:-1]:
            self._put(release, relative)
        self._keep(wanted)
        for relative in wanted[-1:]:
            self._put(release, relative)
        filesystem.sync_filesystem(self._model)

    def _put(self, release: Path, relative: Path) -> None:
        """Put one file into the folder, where something of another kind may be in its way."""
        place = self._model / relative
        for parent in (self._model / parent for parent in relative.parents[:-1]):
            if parent.is_symlink() or parent.is_file():
                parent.unlink()
        if place.is_dir() and not place.is_symlink():
            filesystem.remove_tree(place)
        filesystem.replace_with_copy(release / relative, place)

    def _keep(self, wanted: Collection[Path]) -> None:
        """Remove all other files from the folder, and the folders that are empty then."""
        for relative in set(_files(self._model)) - set(wanted):
            (self._model / relative).unlink()
        needed = {parent for relative in wanted for parent in relative.parents}
        for parent, folders, _ in os.walk(self._model, topdown=False):
            for folder in (Path(parent, name) for name in folders):
                if folder.relative_to(self._model) not in needed and not folder.is_symlink():
                    with suppress(OSError):  # something was put there meanwhile
                        folder.rmdir()


def _files(folder: Path) -> list[Path]:
    """Give the paths, relative to the folder, of all files and links in it.

    :raises OSError: some of it cannot be listed, which must not count as empty.
    """
    return sorted(
        Path(parent, name).relative_to(folder)
        for parent, folders, files in os.walk(folder, onerror=filesystem.fail)
        for name in [*files, *(name for name in folders if Path(parent, name).is_symlink())]
    )
