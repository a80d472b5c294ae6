"""What the port promises whatever a transport answers: names stay in their folder, and only like is joined to like."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import SECOND_NS, Entry, FileFacts, Opened, Store, child
from airflow_serving_reload.delivery.streams import Readable

from .suite import fault, read

FACTS = FileFacts(size=10, mtime_ns=100 * SECOND_NS, resolution_ns=SECOND_NS, etag='"1"', observed_ns=200 * SECOND_NS)


class LyingStore(Store):
    """A store that answers whatever it is told to.

    :param entries: what every folder holds.
    :param openings: how the file opens, one time after the other.
    """

    resume_pauses = (0,)

    def __init__(self, entries: tuple[Entry, ...] = (), openings: tuple[Opened, ...] = ()) -> None:
        self._entries = entries
        self._openings = iter(openings)

    def describe(self, path: str) -> str:
        """Name a path."""
        return f"lies:{path}"

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnreachable(f"{doing}: {error}; try again") from error

    def _stat(self, path: str) -> FileFacts:
        return FACTS

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        yield next(self._openings)

    def _list(self, folder: str) -> list[Entry] | None:
        return list(self._entries)

    def _write(self, path: str, source: Readable) -> None:
        source.read()

    def _rename(self, source: str, target: str) -> None:
        raise OSError("no rename")

    def _remove(self, path: str) -> None:
        raise OSError("no removal")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "../x", "a/../b", "a//b", "/a", "a/", "./a", "a\0b", "a\nb", "a\rb"]
)
def test_child_that_could_escape_is_refused(name: str) -> None:
    """A name that could leave its folder, or break a protocol by lines, is refused."""
    with fault(Refused, "the name ", repr("/models")):
        child("/models", name)


@pytest.mark.parametrize(
    ("folder", "name", "path"),
    [
        ("/models", "a", "/models/a"),
        ("models/", "a/b", "/models/a/b"),
        ("/", "a", "/a"),
        ("", "a", "/a"),
        ("/models", "...", "/models/..."),
        ("/models", "a\\..\\b", "/models/a\\..\\b"),
    ],
)
def test_child_is_below_its_folder(folder: str, name: str, path: str) -> None:
    """A plain name, or path of plain names, is joined to its folder."""
    assert child(folder, name) == path


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", "a\0b"])
def test_listed_name_that_could_escape_is_refused(name: str) -> None:
    """A store that lists a name that could leave its folder is refused, when it is listed and when it is walked."""
    store = LyingStore(entries=(Entry("weights", False), Entry(name, False)))
    with fault(Refused, "listing lies:/models", repr(name)):
        store.list("/models")
    with fault(Refused, "listing lies:/models", repr(name)):
        list(store.walk("/models"))


def test_folders_without_end_are_refused() -> None:
    """A store whose folders go down for ever is refused."""
    store = LyingStore(entries=(Entry("deeper", True),))
    with fault(Refused, "listing lies:/models/deeper"):
        list(store.walk("/models"))


@pytest.mark.parametrize(
    ("later", "same"),
    [
        (FACTS, True),
        (replace(FACTS, observed_ns=300 * SECOND_NS), True),
        (replace(FACTS, etag='"2"'), False),
        (replace(FACTS, etag=None), False),
        (replace(FACTS, size=11), False),
        (replace(FACTS, size=None), False),
        (replace(FACTS, mtime_ns=99 * SECOND_NS), False),
        (replace(FACTS, mtime_ns=None), False),
    ],
)
def test_only_equal_facts_prove_the_same_file(later: FileFacts, same: bool) -> None:
    """Every fact must be the same for the file to be."""
    assert FACTS.proves_same_file(later) is same


@pytest.mark.parametrize(
    ("facts", "proof"),
    [
        (replace(FACTS, etag=None), True),
        (replace(FACTS, mtime_ns=None), True),
        (replace(FACTS, mtime_ns=None, etag=None), False),
        (replace(FACTS, size=None), False),
        (replace(FACTS, observed_ns=101 * SECOND_NS), False),
        (replace(FACTS, observed_ns=102 * SECOND_NS), True),
        (replace(FACTS, observed_ns=99 * SECOND_NS), False),
        (replace(FACTS, observed_ns=100 * SECOND_NS + 2, resolution_ns=1), True),
    ],
)
def test_few_or_young_facts_prove_nothing(facts: FileFacts, proof: bool) -> None:
    """Equal facts prove the same file if there are enough of them, and the file was not young when it was opened."""
    assert facts.proves_same_file(facts) is proof


def test_part_behind_a_gap_is_not_joined() -> None:
    """A transport that goes on behind a gap is not believed."""
    openings = (Opened(FACTS, io.BytesIO(b"1234")), Opened(FACTS, io.BytesIO(b"67890"), offset=5))
    with fault(StoreUnreachable, "reading lies:/model", "from the beginning"):
        read(LyingStore(openings=openings), "/model")


def test_fault_is_told_again() -> None:
    """After a fault a file never gives another byte, whoever asks."""
    openings = (Opened(FACTS, io.BytesIO(b"1234")), Opened(replace(FACTS, etag='"2"'), io.BytesIO(b"1234567890")))
    with LyingStore(openings=openings).open("/model") as file:
        for _ in range(3):
            with fault(StoreUnreachable, "reading lies:/model", "from the beginning"):
                file.read()


def test_first_fault_of_an_upload_is_the_one_that_is_seen() -> None:
    """A temporary file that cannot be removed does not hide why it should be."""
    with fault(StoreUnreachable, "uploading lies:/models/model", "no rename"):
        LyingStore().write("/models/model", io.BytesIO(b"model"))


def test_closed_store_is_no_fault() -> None:
    """A store without connections can be closed like any other."""
    with LyingStore() as store, pytest.raises(NotThereYet):
        raise NotThereYet(store.describe("/model"))
