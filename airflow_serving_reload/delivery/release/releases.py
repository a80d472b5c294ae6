"""All releases of one model on this host, staged, published, pruned and found.

Under the folder of a model named `model`::

    model                       symbolic link to .model.releases/<release>; what the server reads
    .model.releases/
        <release>/              one complete model, never changed once it is published
        <release>.json          its record: where it came from, when it was published and confirmed
        <release>.files         its manifest, where it was a folder in the store: what is remembered of each file,
                                so that it is linked and not fetched again while it is the same (see `manifest`)
        .publish.lock           held while the live release changes
        .deliver.lock           held while a new release is fetched

Where a symbolic link cannot serve, because `model` is a mount point or the file system cannot exchange a folder
for a link, `model` stays a folder: files are renamed into it one by one, the timestamp file last, and
`.in_place.json` says which release it holds, or which one it is being changed to.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from airflow_serving_reload.delivery import filesystem
from airflow_serving_reload.delivery.errors import PublicationFailed, Refused, is_transient
from airflow_serving_reload.delivery.release.in_place import InPlace
from airflow_serving_reload.delivery.release.record import Record, Records, clock

log = logging.getLogger(__name__)

PublishMode = Literal["auto", "symlink", "in_place"]
"""How a release becomes the live one; `auto` takes the symbolic link wherever one can serve."""

FEWEST_KEPT = 2
"""Releases that always stay: the live one and the one to roll back to."""


class Releases:
    """All releases of one model on this host.

    :param local_path: folder that the model's name is relative to.
    :param local_model_name: the name by which the server reads the model; a plain name or relative path.
    :param timestamp_name: file in the model that publishing in place puts there last.
    :raises Refused: the name could leave the folder.
    """

    def __init__(self, local_path: Path, local_model_name: str, timestamp_name: str = "fluid_time_file") -> None:
        self.model = local_path / _relative("local_model_name", local_model_name)
        self._timestamp_name = _relative("local_timestamp_file", timestamp_name)
        self._folder = self.model.parent / f".{self.model.name}.releases"
        self._records = Records(self._folder)
        self._in_place = InPlace(self.model, self._folder / ".in_place.json", self._timestamp_name)

    @property
    def timestamp_file(self) -> Path:
        """The timestamp file of the live release."""
        return self.model / self._timestamp_name

    def timestamp_file_of(self, record: Record) -> Path:
        """Give the timestamp file of a release."""
        return self.path(record) / self._timestamp_name

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Exclude other deliveries of this model; rolling back is not excluded."""
        with self._exclusively(".deliver.lock", "another delivery"):
            yield

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Exclude everything else that changes what is live, and mend what a killed process left."""
        with self._exclusively(".publish.lock", "another publication"):
            self._recover()
            yield

    @contextmanager
    def _exclusively(self, name: str, other: str) -> Iterator[None]:
        with ExitStack() as stack:
            with self._publication(f"preparing {self._folder}"):
                if self._folder.is_symlink():
                    raise Refused(
                        f"looking at {self._folder}: it is a link to {self._folder.readlink()}, which somebody else "
                        "made; replace it by the folder that it leads to, or remove it"
                    )
                self._folder.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(
                        filesystem.lock(
                            self._folder / name, waiting=lambda: log.info("waiting for %s of %s", other, self.model)
                        )
                    )
                except TimeoutError as error:
                    if error.errno is not None:  # the file system's, not the lock's
                        raise
                    raise PublicationFailed(
                        f"waiting for {other} of {self.model}: {error}; what was live still is; see what that process "
                        "waits for, end it if it hangs, and run this again"
                    ) from error
            yield

    @contextmanager
    def staging(self, temporary: Path, *, going_on: bool = False) -> Iterator[Path]:
        """Give an empty folder to make a release in, which is gone afterwards unless it was admitted.

        What earlier deliveries left there is removed; hold `delivering` meanwhile.

        :param temporary: folder on the same file system; made if absent.
        :param going_on: give what a delivery left there that had this set too, and was killed or ended by a fault that
            a retry may mend; and leave it to the next one after such an end. There is never more than one.
        :raises Refused: it is on another file system, from where nothing can be renamed.
        """
        place = hashlib.sha256(os.fsencode(self.model.absolute())).hexdigest()[:8]
        # hidden from servers that search this folder for models
        prefix = f".{self.model.name}.staging-{place}-"
        with self._publication(f"preparing {temporary}"):
            temporary.mkdir(parents=True, exist_ok=True)
            if temporary.stat().st_dev != self._folder.stat().st_dev:
                raise Refused(
                    f"staging a release in {temporary}: it is on another file system than {self._folder}; "
                    "choose a local_tmp_path on the same one"
                )
            folder = temporary / (f"{prefix}{'arriving' if going_on else secrets.token_hex(4)}")
            for leftover in temporary.glob(f"{glob.escape(prefix)}*"):
                if leftover != folder or leftover.is_symlink():
                    log.info("removing %s, which an earlier delivery left", leftover)
                    filesystem.remove_tree(leftover)
            folder.mkdir(exist_ok=going_on)
        try:
            yield folder
        except BaseException as fault:
            if not (going_on and is_transient(fault)):
                _discard(folder)
            raise
        else:
            _discard(folder)

    def admit(self, staged: Path, *, version: object = None, manifest: Path | None = None, **facts: Any) -> Record:
        """Take a complete model in as a release; it is not live yet. Hold `delivering`, but not `publishing`.

        :param staged: its folder, on the same file system; it is moved.
        :param version: what training calls it; becomes part of the release's name.
        :param manifest: file with what is remembered of its files; it is moved too.
        :param facts: fields of its `Record`.
        :raises Refused: it holds no file.
        :raises PublicationFailed: the host did not let it.
        """
        doing = f"taking {staged} in as a release of {self.model}"
        with self._publication(doing):
            # Only this host asks for a reload; a timestamp file out of an archive would be somebody else's.
            filesystem.remove_tree(staged / self._timestamp_name)
            if next(filesystem.walk_files(staged), None) is None:
                raise Refused(f"{doing}: it holds no file; upload the model again")
            filesystem.sync_filesystem(staged)
        # A record without its folder is what others would mend.
        with self.publishing(), self._publication(doing):
            record = self._records.write(self._records.new("delivered", version, **facts))
            if manifest:
                manifest.rename(self._manifest(record))
            staged.rename(self.path(record))
            filesystem.sync_folder(self._folder)
        return record

    def give_back(self, record: Record, staged: Path) -> None:
        """Undo `admit`, so that it can be tried again; nothing happens to a release that is live or was."""
        with self.publishing(), self._publication(f"giving {record.release} back to {staged}"):
            if self.find(record.release).published is None:
                self.path(record).rename(staged)
                self._records.remove(record)

    def path(self, record: Record) -> Path:
        """Give the folder of a release."""
        return self._folder / record.release

    def _manifest(self, record: Record) -> Path:
        return filesystem.beside(self.path(record), "files")

    def remember(self, record: Record, **changes: Any) -> Record:
        """Write the record of a release, with some fields changed.

        :raises PublicationFailed: the host did not let it.
        """
        try:
            return self._records.write(record, **changes)
        except OSError as error:
            raise PublicationFailed(
                f"writing the record of {record.release} in {self._folder}: {error.strerror}; "
                "check space and permissions, then run it again"
            ) from error

    def accept(self, record: Record, *, proved: bool) -> Record:
        """Write down that a published release is to be the live one, with nothing held against it any more.

        :param proved: whether the server was proved to serve it; where there is none, nobody says.
        :raises PublicationFailed: the host did not let it.
        """
        return self.remember(record, confirmed=clock() if proved else None, refused=None, withdrawn=None)

    def history(self) -> list[Record]:
        """Give the records of all complete releases, the one published last first.

        :raises Refused: one of them cannot be read.
        """
        return self._records.history()

    def live(self) -> Record | None:
        """Give the record of the live release; None if nothing was ever published here.

        :raises Refused: the model is a file, or a link that somebody else made.
        """
        if not self.model.is_symlink():
            if self.model.exists() and not self.model.is_dir():
                raise Refused(f"looking at {self.model}: it is a file, no folder; remove it, or check local_model_name")
            name = self._in_place.live()
        else:
            target = self.model.readlink()
            name = target.name
            if target.parent != Path(self._folder.name):
                raise Refused(
                    f"looking at {self.model}: it is a link to {target}, which is none of its releases; "
                    "replace it by the folder that it leads to, or remove it"
                )
        return next((record for record in self.history() if record.release == name), None)

    def find(self, name: str) -> Record:
        """Give the record of the release with this name.

        :raises Refused: there is none.
        """
        records = self.history()
        for record in records:
            if record.release == name:
                return record
        known = ", ".join(record.release for record in records) or "none"
        raise Refused(f"looking for the release {name!r} of {self.model}: there is none; there are: {known}")

    def previous(self) -> Record | None:
        """Give the release to roll back to: the last one published before the live one that nobody gave up."""
        live = self.live()
        for record in self.history():
            if record.published and not record.given_up and (live is None or record.release != live.release):
                return record
        return None

    def publish(self, record: Record, mode: PublishMode = "auto", *, insist: bool = False) -> Record:
        """Make a release the live one; a reader sees the old or the new model, whole. Hold `publishing`.

        A folder found in the model's place becomes a release itself, so that it can be rolled back to.

        :param insist: leave it live even if that cannot be written down, since what was live is worse.
        :return: the changed record.
        :raises PublicationFailed: the host did not let it; what was live still is.
        """
        with self._publication(f"publishing {record.release} as {self.model}"):
            if not self.path(record).is_dir():
                raise FileNotFoundError(errno.ENOENT, "the release is gone", str(self.path(record)))
            by_link = self._links(mode)
            log.debug("publishing %s by %s", record.release, "its link" if by_link else "its files")
            undo = self._lead_link_to(record) if by_link else self._change_in_place(record)
            try:
                filesystem.sync_folder(self.model.parent)
                return self._records.write(record, published=self._records.next_moment(), confirmed=None)
            except BaseException as error:
                if not insist:
                    # a task that is told to end now leaves what was live as well
                    undo()
                elif isinstance(error, OSError):
                    log.warning("%s is live, which cannot be written down: %s", record.release, error)
                    return replace(record, confirmed=None)
                raise

    def prune(self, keep: int) -> None:
        """Remove all but the last `keep` releases, never the live one nor the one to roll back to."""
        live, previous = self.live(), self.previous()
        needed = {record.release for record in (live, previous) if record}
        others = [record for record in self.history() if record.release not in needed]
        for record in others[max(keep, FEWEST_KEPT) - len(needed) :]:
            log.info("removing the old release %s", record.release)
            doomed = self._folder / f".removing-{record.release}"
            try:
                self.path(record).rename(doomed)
                filesystem.remove_tree(doomed)
                self._manifest(record).unlink(missing_ok=True)
                self._records.remove(record)
            except OSError as error:
                log.warning("the old release %s could not be removed: %s", record.release, error)

    def _adopted(self) -> Record:
        record = self._records.new("adopted", "adopted")
        return replace(record, published=record.created)

    def _links(self, mode: PublishMode) -> bool:
        """Whether the live release is to be a link, after bringing the model's place into that state."""
        if mode == "in_place":
            if self.model.is_symlink():
                raise Refused(f"publishing in place into {self.model}: it is a link; use publish_mode auto or symlink")
            return False
        if self.model.is_symlink() or not self.model.exists():
            self.live()  # refuses a link that is not ours
            return True
        if mode == "auto" and (self._in_place.is_used() or self.model.is_mount()):
            return False
        try:
            self._adopt()
        except OSError as error:
            if mode == "symlink":
                raise
            log.info("publishing in place, since %s cannot be exchanged for a link (%s)", self.model, error.strerror)
            return False
        return True

    def _lead_link_to(self, record: Record) -> Callable[[], None]:
        """Make a release live, and give what takes that back."""
        before = self.model.readlink() if self.model.is_symlink() else None
        filesystem.replace_symlink(self.model, f"{self._folder.name}/{record.release}")
        if before is None:
            return self.model.unlink
        return lambda: filesystem.replace_symlink(self.model, str(before))

    def _adopt(self) -> None:
        """Turn the folder in the model's place into a release, and the place into a link to it, in one step."""
        record = self._adopted()
        link = self.path(record)
        link.symlink_to(f"{self._folder.name}/{record.release}")
        self._records.write(record)
        try:
            filesystem.exchange(self.model, link)
        except OSError:
            self._records.remove(record)
            link.unlink()
            raise
        log.info("took the model found at %s in as the release %s", self.model, record.release)

    def _change_in_place(self, record: Record) -> Callable[[], None]:
        """Make a release live, and give what takes that back."""

        def undo() -> None:
            self._in_place.begin(record.release, instead_of=live)
            self._recover()

        try:
            live = self._in_place.live() or self._copy_as_release()
            self._in_place.publish(self.path(record), instead_of=live)
        except BaseException:
            self._recover()
            raise
        return undo

    def _copy_as_release(self) -> str | None:
        """Keep what is in the model's place as a release; None if nothing is."""
        record = self._adopted()
        copy = self._folder / f".removing-{record.release}"
        if not self._in_place.copy_to(copy):
            return None
        self._records.write(record)
        copy.rename(self.path(record))
        return record.release

    def _recover(self) -> None:
        """Mend what a process that was killed left: nothing that is live, or could be rolled back to, is touched."""
        with self._publication(f"mending what a killed delivery left in {self._folder}"):
            for leftover in self._folder.iterdir():
                unfinished = leftover.name.startswith(".removing-") or (
                    leftover.name.startswith(".") and leftover.name.endswith(".tmp")
                )
                if unfinished or leftover.is_symlink():
                    filesystem.remove_tree(leftover)
            stamped = (self.timestamp_file, *map(self.timestamp_file_of, self.history()))
            for replaced in (self.model, *stamped):
                filesystem.remove_temporaries(replaced)
            for file in (*self._folder.glob("[!.]*.json"), *self._folder.glob("[!.]*.files")):
                if file.is_file() and not file.with_suffix("").is_dir():
                    file.unlink()
            self._in_place.restore(self._folder)
            record = self.live()
            if record and not record.published:
                self._records.write(record, published=self._records.next_moment())

    @contextmanager
    def _publication(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PublicationFailed(
                f"{doing}: {error.strerror or error}; what was live still is; "
                "check space, permissions and the file system"
            ) from error


def _discard(folder: Path) -> None:
    """Remove a folder that is in nobody's way if it stays: the next delivery removes it, or says why it cannot."""
    try:
        filesystem.remove_tree(folder)
    except OSError as error:
        log.warning("%s could not be removed: %s", folder, error)


def models_in(local_path: Path) -> list[str]:
    """Give the names of the models in a folder that have releases."""
    return sorted(folder.name[1 : -len(".releases")] for folder in local_path.glob(".*.releases") if folder.is_dir())


def _relative(option: str, value: str) -> Path:
    path = Path(value)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in value:
        raise Refused(f"using {option} {value!r}: it must be a name, or a relative path without '..'")
    return path
