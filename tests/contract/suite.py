"""The contract: what every store must do, whatever transport it uses and whatever its server offers.

A binding is a class that inherits a suite, says by `offers` what its server offers, and gives the fixture `bench`.
"""

from __future__ import annotations

import errno
import io
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import pytest

from airflow_serving_reload.delivery.donefile import SMALL, Decision, DonefileVersion, decide
from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.listing import Evidence
from airflow_serving_reload.delivery.stores.base import Entry, FileFacts, Store, child
from airflow_serving_reload.delivery.streams import CHUNK

from .bench import PASSWORD, WRONG_PASSWORD, Bench, NetworkBench, Offers
from .proxy import CuttingProxy, nobody

LONG_AGO = 1_600_000_000
"""A time, in seconds since the epoch, at which every store has settled."""

# Far beyond what anything here takes: it only turns a hang into a failure.
DEADLINE_SECONDS = 60

DONEFILE = "/models/donefile"
MODEL = "/models/model.tar"

JSON_DONEFILE = b'{"model": "model.tar", "version": "7", "sha256": "' + b"A5" * 32 + b'", "size": 12}'

NAMES = (
    "with space",
    " space around ",
    "hash#mark",
    "per%cent",
    "per%2fcent%41",
    "plus+sign",
    "question?mark=1",
    "amper&sand;semicolon",
    "co:lon",
    "quotes'\"",
    "<angle>brackets[and]others{}|^`~",
    "模型-房价",
    "e\u0301-decomposed",
    "-leading-dash",
    "back\\slash",
    "user@host",
    "dots...",
    "tab\tinside",
)
"""Names that are legal everywhere on Linux, and that careless code breaks."""


FIRST, AROUND, LAST = "-leading-dash", " space around ", "dots..."
"""Those of them that are odd by how they begin or end."""


def joined(names: Sequence[str]) -> list[str]:
    """Join names into two that have everything that is odd about them, for stores where each name costs seconds."""
    within = "".join(name for name in names if name not in (FIRST, AROUND, LAST))
    assert len(within.encode()) < 220, "no file system has longer names than 255 bytes"
    return sorted([f"{FIRST}{within}{LAST}", AROUND])


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Give bytes that repeat nowhere, the same ones for the same arguments."""
    return random.Random(seed).randbytes(size)


def wait_until(condition: Callable[[], object], expected: str) -> None:
    """Return once the condition is true; fail, saying what was expected, if it never is."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never seen within {DEADLINE_SECONDS} s: {expected}")
        time.sleep(0.01)


@contextmanager
def fault(kind: type[DeliveryError] | tuple[type[DeliveryError], ...], doing: str, *words: str) -> Iterator[None]:
    """Expect a fault of exactly this kind, or one of these, whose message helps and keeps the secrets.

    :param doing: how the message begins: what was done to what.
    :param words: what else the message says.
    """
    with pytest.raises(DeliveryError) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) in (kind if isinstance(kind, tuple) else (kind,)), f"{caught.type.__name__}: {message}"
    assert message.startswith(doing)
    _, has_advice, advice = message.rpartition("; ")
    assert has_advice, f"does not say what to do: {message}"
    assert advice
    for word in words:
        assert word in message
    assert PASSWORD not in message
    assert WRONG_PASSWORD not in message


def look(store: Store, path: str = DONEFILE) -> DonefileVersion:
    """Look at a donefile that is there."""
    seen = store.donefile(path)
    assert seen is not None
    return seen


Telling = Callable[[Store], Mapping[str, FileFacts] | None]


def listed(store: Store) -> Mapping[str, FileFacts] | None:
    """Have one listing tell of the donefiles."""
    return store.scan("/models")


def asked(store: Store) -> Mapping[str, FileFacts]:
    """Ask for the facts of each donefile."""
    told = {}
    for name in ("donefile", "absent"):
        with suppress(NotThereYet):
            told[name] = store.stat(f"/models/{name}")
    return told


tell_by_either = pytest.mark.parametrize("tell", [pytest.param(listed, marks=pytest.mark.needs(scans=True)), asked])


def evidence_of(store: Store, name: str, tell: Telling) -> Evidence:
    """Look at a donefile before and after the store has told of it."""
    evidence = Evidence(name)
    evidence.looked(store.donefile(f"/models/{name}"), None)
    told = tell(store)
    evidence.looked(store.donefile(f"/models/{name}"), told)
    return evidence


def read(store: Store, path: str) -> bytes:
    """Read a file of a store."""
    with store.open(path) as file:
        return file.read()


class StoreContract:
    """What every store must do."""

    offers: ClassVar[Offers]
    uploads_at_once: ClassVar[int] = 5
    """How often to try whether two uploads can be mistaken for one."""
    names: ClassVar[Sequence[str]] = NAMES
    """Names to look for in listings, as far as the server allows them."""

    # donefiles

    def test_absent_donefile_is_none(self, bench: Bench) -> None:
        """A donefile that is absent, with or without its folder, is no fault but None."""
        assert bench.store.donefile(DONEFILE) is None
        bench.make_folder("/models")
        assert bench.store.donefile(DONEFILE) is None

    def test_absent_file_is_not_there_yet(self, bench: Bench) -> None:
        """A file that is absent is not there yet, and the message names it."""
        bench.make_folder("/models")
        where = bench.store.describe(MODEL)
        with fault(NotThereYet, f"asking for {where}"):
            bench.store.stat(MODEL)
        with fault(NotThereYet, f"opening {where}"):
            read(bench.store, MODEL)

    @pytest.mark.needs(tells_times=True)
    def test_empty_donefile_is_a_version(self, bench: Bench) -> None:
        """An empty donefile of long ago is a settled version with its time and size."""
        bench.put(DONEFILE, mtime=LONG_AGO)
        seen = look(bench.store)
        assert (seen.mtime_ns, seen.size, dict(seen.content)) == (LONG_AGO * 10**9, 0, {})
        assert seen.settled
        assert seen.path == DONEFILE
        assert decide(seen, None) is Decision.CHANGED

    def test_json_donefile_is_a_version(self, bench: Bench) -> None:
        """A donefile that names the digest of its model is settled the moment it is there, and gives its content."""
        bench.put(DONEFILE, JSON_DONEFILE)
        seen = look(bench.store)
        assert (seen.content["version"], seen.model_sha256, seen.model_size) == ("7", "a5" * 32, 12)
        assert seen.settled
        assert seen.size == len(JSON_DONEFILE)

    def test_untouched_donefile_is_unchanged(self, bench: Bench) -> None:
        """Two looks at one upload give equal versions, also after one of them was kept as a dict."""
        bench.put(DONEFILE, b"1", mtime=LONG_AGO)
        first, second = look(bench.store), look(bench.store)
        assert decide(second, DonefileVersion.from_dict(first.to_dict())) is Decision.UNCHANGED

    @pytest.mark.needs(tells_times=True, tells_uploads_apart=False)
    def test_young_empty_donefile_is_unsettled(self, bench: Bench) -> None:
        """A look in the second of the upload of an empty donefile is unsettled, since a further upload could follow."""
        bench.make_folder("/models")
        while True:
            began = int(time.time())
            bench.put(DONEFILE)
            seen = look(bench.store)
            if int(time.time()) == began:
                break
        assert not seen.settled
        assert decide(seen, None) is Decision.UNSETTLED

    @pytest.mark.needs(tells_times=True, tells_uploads_apart=False)
    def test_unsettled_donefile_settles(self, bench: Bench) -> None:
        """A donefile that was unsettled is settled once the store's clock has moved on, with the same facts."""
        while True:
            bench.put(DONEFILE, mtime=int(time.time()) - 1)
            first = look(bench.store)
            if not first.settled:
                break
        wait_until(lambda: look(bench.store).settled, "a settled donefile")
        assert look(bench.store) == first

    @pytest.mark.needs(tells_times=True)
    @pytest.mark.parametrize("content", [b"", b"1", b'{"version": 1}'])
    def test_two_uploads_at_once_are_told_apart(self, bench: Bench, content: bytes) -> None:
        """Of two equal uploads right after each other the first is never both settled and equal to the second."""
        bench.put(DONEFILE, content)
        last = look(bench.store)
        for _ in range(self.uploads_at_once):
            bench.put(DONEFILE, content)
            seen = look(bench.store)
            assert not (last.settled and seen == last)
            last = seen

    @pytest.mark.needs(tells_times=True)
    def test_older_time_is_a_change(self, bench: Bench) -> None:
        """A donefile that became older, as when training puts an earlier model back, has changed."""
        bench.put(DONEFILE, mtime=LONG_AGO)
        first = look(bench.store)
        bench.put(DONEFILE, mtime=LONG_AGO - 1000)
        assert decide(look(bench.store), first) is Decision.CHANGED

    def test_other_content_is_a_change(self, bench: Bench) -> None:
        """A donefile with other content has changed, be its time and size as before."""
        bench.put(DONEFILE, b"1", mtime=LONG_AGO)
        first = look(bench.store)
        bench.put(DONEFILE, b"2", mtime=LONG_AGO)
        assert decide(look(bench.store), first) is Decision.CHANGED

    def test_too_large_donefile_is_refused(self, bench: Bench) -> None:
        """A donefile may be as large as a small file and not a byte larger: that is the model, named by mistake."""
        bench.put(DONEFILE, b"x" * SMALL)
        assert look(bench.store).size == SMALL
        bench.put(DONEFILE, b"x" * (SMALL + 1))
        with fault(Refused, f"reading the donefile {bench.store.describe(DONEFILE)}", "remote_donefile_name"):
            bench.store.donefile(DONEFILE)

    @pytest.mark.needs(tells_times=False)
    def test_donefile_without_facts_is_refused(self, bench: Bench) -> None:
        """Where the store tells neither time nor tag an empty donefile is refused, but one with content is fine."""
        bench.put(DONEFILE)
        with fault(Refused, f"reading the donefile {bench.store.describe(DONEFILE)}", 'donefile_format="json"'):
            bench.store.donefile(DONEFILE)
        bench.put(DONEFILE, b"1")
        assert look(bench.store).settled

    # reading

    @pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 17])
    def test_whole_file_is_read(self, bench: Bench, size: int) -> None:
        """A file comes whole, with its length told beforehand, and its end is told again and again."""
        content = random_bytes(size)
        bench.put(MODEL, content)
        with bench.store.open(MODEL) as file:
            assert file.facts.size == size
            assert file.read() == content
            assert file.read() == file.read(10) == b""

    def test_small_pieces_are_read(self, bench: Bench) -> None:
        """However few bytes are asked for at a time, never more come, and together they are the file."""
        content = random_bytes(100_000)
        bench.put(MODEL, content)
        with bench.store.open(MODEL) as file:
            assert file.read(0) == b""
            pieces = list(iter(lambda: file.read(7_000), b""))
        assert max(map(len, pieces)) <= 7_000
        assert b"".join(pieces) == content

    def test_facts_are_the_same_everywhere(self, bench: Bench) -> None:
        """Asking for a file tells the same facts as opening it."""
        bench.put(MODEL, b"model", mtime=LONG_AGO)
        with bench.store.open(MODEL) as file:
            assert file.facts == bench.store.stat(MODEL)

    def test_file_left_early_does_no_harm(self, bench: Bench) -> None:
        """After a file was left in the middle the store goes on to work."""
        bench.put(MODEL, random_bytes(2 * CHUNK))
        with bench.store.open(MODEL) as file:
            file.read(10)
        bench.put(DONEFILE, b"1")
        assert look(bench.store).size == 1

    def test_folder_is_no_file(self, bench: Bench) -> None:
        """A folder that is taken for a file, or for a donefile, is refused."""
        bench.put(f"{MODEL}/weights", b"1")
        where = bench.store.describe(MODEL)
        with fault(Refused, f"asking for {where}"):
            bench.store.stat(MODEL)
        with fault(Refused, f"opening {where}"):
            read(bench.store, MODEL)
        with fault(Refused, f"opening {where}"):
            bench.store.donefile(MODEL)

    @pytest.mark.parametrize("name", NAMES)
    def test_odd_name_is_read(self, bench: Bench, name: str) -> None:
        """A file, and a folder, can have any name that a file system allows."""
        path = child(child("/models", name), name)
        if not self.offers.allow(name):
            with fault((Refused, NotThereYet), f"asking for {bench.store.describe(path)}"):
                bench.store.stat(path)
            return
        bench.put(path, b"content")
        assert bench.store.stat(path).size == 7
        assert read(bench.store, path) == b"content"

    # listing

    @pytest.mark.needs(lists=True)
    def test_folder_is_listed(self, bench: Bench) -> None:
        """A folder is listed in the order of names, and its folders are told from its files."""
        for name in ("b", "a", "c/below"):
            bench.put(f"/models/{name}")
        bench.make_folder("/models/empty")
        expected = [Entry("a", False), Entry("b", False), Entry("c", True), Entry("empty", True)]
        assert bench.store.list("/models") == bench.store.list("/models/") == expected
        assert bench.store.list("/models/empty") == []

    @pytest.mark.needs(lists=True)
    def test_root_is_listed(self, bench: Bench) -> None:
        """The root of the store is a folder like any other."""
        bench.put("/model")
        assert bench.store.list("/") == [Entry("model", False)]
        assert list(bench.store.walk("/")) == ["model"]

    @pytest.mark.needs(lists=True)
    def test_file_is_not_listed(self, bench: Bench) -> None:
        """A listing of a file is None."""
        bench.put(MODEL, b"1")
        assert bench.store.list(MODEL) is None

    @pytest.mark.needs(lists=True)
    def test_absent_folder_is_not_there_yet(self, bench: Bench) -> None:
        """A folder that is absent is not there yet."""
        for listing in (bench.store.list, lambda path: list(bench.store.walk(path))):
            with fault(NotThereYet, f"listing {bench.store.describe('/models')}"):
                listing("/models")

    @pytest.mark.needs(lists=True)
    def test_nested_folders_are_walked(self, bench: Bench) -> None:
        """Every file below a folder is found, in order, and an empty folder gives nothing."""
        files = ["a/b/c/deep", "a/b/z", "a0", "conf/serving.conf", "weights"]
        for name in files:
            bench.put(f"/models/house/{name}")
        bench.make_folder("/models/house/a/empty/emptier")
        bench.put("/models/elsewhere")
        assert list(bench.store.walk("/models/house")) == files

    @pytest.mark.needs(lists=True)
    def test_odd_names_are_listed(self, bench: Bench) -> None:
        """Names come out of a listing as they are on the disk, whatever is in them, and lead to their files."""
        names = sorted(filter(self.offers.allow, self.names))
        for name in names:
            bench.put(f"/models/{name}/{name}", name.encode())
        assert [entry.name for entry in bench.store.list("/models") or ()] == names
        walked = list(bench.store.walk("/models"))
        assert walked == [f"{name}/{name}" for name in names]
        assert [read(bench.store, child("/models", path)).decode() for path in walked] == names

    @pytest.mark.needs(lists=True, lists_hidden=True)
    def test_hidden_names_are_listed(self, bench: Bench) -> None:
        """A name that begins with a dot is a name."""
        bench.put("/models/.hidden/...")
        assert list(bench.store.walk("/models")) == [".hidden/..."]

    @pytest.mark.needs(lists=True)
    def test_unfinished_upload_is_not_listed(self, bench: Bench) -> None:
        """What is being uploaded, or was left behind by an upload that was killed, is no part of a folder."""
        bench.put("/models/.weights.0123abcd.part")
        bench.put("/models/weights")
        assert bench.store.list("/models") == [Entry("weights", False)]

    @pytest.mark.needs(scans=True)
    def test_scan_tells_of_every_file(self, bench: Bench) -> None:
        """One listing tells of every file in a folder by the name that it has on the disk, and of nothing else."""
        names = sorted(filter(self.offers.allow, NAMES))
        for name in names:
            bench.put(f"/models/{name}", b"content", mtime=LONG_AGO)
        bench.put("/models/folder/below")
        first, second = bench.store.scan("/models"), bench.store.scan("/models/")
        assert first is not None
        assert sorted(first) == names
        assert first == second

    @pytest.mark.needs(scans=True)
    def test_scan_of_a_folder_without_files_is_empty(self, bench: Bench) -> None:
        """A listing of a folder without files tells of none, and an absent folder is not there yet."""
        bench.make_folder("/models/folder")
        assert bench.store.scan("/models") == {}
        with fault(NotThereYet, f"listing {bench.store.describe('/elsewhere')}"):
            bench.store.scan("/elsewhere")

    @pytest.mark.needs(scans=False)
    def test_no_scan_is_known_as_such(self, bench: Bench) -> None:
        """Where listings tell no times, a scan gives none or is refused, and never a folder without files."""
        bench.put(DONEFILE, mtime=LONG_AGO)
        try:
            assert bench.store.scan("/models") is None
        except Refused as refusal:
            assert "/models" in str(refusal)  # noqa: PT017 - either is right

    @pytest.mark.needs(tells_times=True)
    @tell_by_either
    def test_nothing_changed_is_proved(self, bench: Bench, tell: Telling) -> None:
        """What is told proves that a donefile of long ago is still the same, and that an absent one is still absent."""
        bench.put(DONEFILE, b"1", mtime=LONG_AGO)
        for name in ("donefile", "absent"):
            evidence = evidence_of(bench.store, name, tell)
            assert evidence.proves_unchanged(tell(bench.store))
        bench.put("/models/absent")
        assert not evidence.proves_unchanged(tell(bench.store))

    @tell_by_either
    @pytest.mark.parametrize("mtime", [None, LONG_AGO - 200_000])
    @pytest.mark.parametrize("content", [b"", b"1"])
    def test_no_upload_is_hidden(self, bench: Bench, content: bytes, mtime: float | None, tell: Telling) -> None:
        """However soon after a look the same donefile is uploaded again, and if it is older, that is never hidden."""
        if not (content or self.offers.tells_times):
            content = b"0"
        for _ in range(self.uploads_at_once):
            bench.put(DONEFILE, content, mtime=mtime and LONG_AGO)
            evidence = evidence_of(bench.store, "donefile", tell)
            bench.put(DONEFILE, content, mtime=mtime)
            assert not evidence.proves_unchanged(tell(bench.store))

    @pytest.mark.needs(lists=True)
    def test_page_in_a_folder_does_not_hide_its_files(self, bench: Bench) -> None:
        """A folder with an `index.html` among its files is listed whole or refused, never taken for what that says."""
        bench.put("/models/index.html", b'<html><a href="something-else">something else</a></html>', mtime=LONG_AGO)
        bench.put("/models/weights")
        try:
            listed = bench.store.list("/models")
        except Refused as refusal:
            assert "index.html" in str(refusal)  # noqa: PT017 - either is right
        else:
            assert listed == [Entry("index.html", False), Entry("weights", False)]

    @pytest.mark.needs(lists=False)
    def test_listing_is_refused(self, bench: Bench) -> None:
        """Where folders cannot be listed the message says so, and what to do, and files still can be told apart."""
        bench.put("/models/house/weights")
        with fault(Refused, f"listing {bench.store.describe('/models/house')}", "one archive"):
            bench.store.list("/models/house")
        assert bench.store.list("/models/house/weights") is None

    # uploads

    @pytest.mark.needs(uploads=True)
    @pytest.mark.parametrize("size", [0, 1, 2 * CHUNK + 17])
    def test_file_is_written(self, bench: Bench, size: int) -> None:
        """An upload is whole, makes the folders that are missing, and leaves nothing else behind."""
        content = random_bytes(size)
        bench.store.write("/models/new/model.tar", io.BytesIO(content))
        assert bench.content("/models/new/model.tar") == content
        assert bench.names("/models/new") == ["model.tar"]
        assert bench.names("/models") == ["new"]

    @pytest.mark.needs(uploads=True)
    def test_file_is_written_to_the_root(self, bench: Bench) -> None:
        """A file can be uploaded to the root of the store."""
        bench.store.write("/model.tar", io.BytesIO(b"model"))
        assert bench.names("/") == ["model.tar"]

    @pytest.mark.needs(uploads=True)
    def test_file_is_overwritten(self, bench: Bench) -> None:
        """An upload takes the place of what was there, be it longer."""
        bench.put(MODEL, b"the old model, which is longer")
        bench.store.write(MODEL, io.BytesIO(b"new"))
        assert bench.content(MODEL) == b"new"
        assert bench.names("/models") == ["model.tar"]

    @pytest.mark.needs(uploads=True)
    @pytest.mark.parametrize("name", NAMES)
    def test_odd_name_is_written(self, bench: Bench, name: str) -> None:
        """An upload gets exactly the name that was asked for, in exactly the folder that was asked for."""
        path = child(child("/models", name), name)
        if not self.offers.allow(name):
            with fault(Refused, f"uploading {bench.store.describe(path)}"):
                bench.store.write(path, io.BytesIO(name.encode()))
            return
        bench.store.write(path, io.BytesIO(name.encode()))
        assert bench.names("/models") == [name]
        assert bench.names(f"/models/{name}") == [name]
        assert bench.content(f"/models/{name}/{name}") == name.encode()

    @pytest.mark.needs(uploads=True)
    def test_written_donefile_is_seen(self, bench: Bench) -> None:
        """What was uploaded can be looked at at once."""
        bench.store.write(DONEFILE, io.BytesIO(JSON_DONEFILE))
        assert look(bench.store).model_size == 12

    @pytest.mark.needs(uploads=True)
    def test_folder_is_not_overwritten(self, bench: Bench) -> None:
        """A folder is never replaced by a file, and the upload leaves nothing behind."""
        bench.put(f"{MODEL}/weights", b"1")
        with fault(Refused, f"uploading {bench.store.describe(MODEL)}"):
            bench.store.write(MODEL, io.BytesIO(b"new"))
        assert bench.content(f"{MODEL}/weights") == b"1"
        assert bench.names("/models") == ["model.tar"]

    @pytest.mark.needs(uploads=True)
    def test_file_is_no_folder(self, bench: Bench) -> None:
        """An upload to below a file fails, and does the file no harm."""
        bench.put(MODEL, b"model")
        # nginx calls it a fault of its own
        with fault((Refused, StoreUnreachable), f"uploading {bench.store.describe(f'{MODEL}/weights')}"):
            bench.store.write(f"{MODEL}/weights", io.BytesIO(b"new"))
        assert bench.content(MODEL) == b"model"

    @pytest.mark.needs(uploads=True, renames=True)
    @pytest.mark.parametrize("old", [None, b"the old model"])
    def test_upload_appears_whole(self, bench: Bench, old: bytes | None) -> None:
        """A reader who looks at any moment of an upload sees what was there before, until all of the new is there."""
        if old is not None:
            bench.put(MODEL, old)
        content = random_bytes(3 * CHUNK)
        seen = []

        class Source(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                seen.append(bench.content(MODEL))
                return super().read(size)

        bench.store.write(MODEL, Source(content))
        assert len(seen) > 3
        assert set(seen) == {old}
        assert bench.content(MODEL) == content

    @pytest.mark.needs(uploads=True, renames=True)
    @pytest.mark.parametrize("old", [None, b"the old model"])
    @pytest.mark.parametrize(
        "failure",
        [
            PermissionError(errno.EACCES, "Permission denied"),
            FileNotFoundError(errno.ENOENT, "No such file or directory"),
            BrokenPipeError(errno.EPIPE, "Broken pipe"),
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            TimeoutError("timed out"),
            ValueError("odd"),
            StoreUnreachable("reading the other store; try again"),
        ],
        ids=lambda failure: type(failure).__name__,
    )
    def test_failing_source_leaves_nothing(self, bench: Bench, failure: Exception, old: bytes | None) -> None:
        """A source that fails in the middle is reported as itself, and neither target nor temporary file stay."""
        if old is not None:
            bench.put(MODEL, old)
        pieces = iter([random_bytes(CHUNK), random_bytes(CHUNK)])

        class Source:
            def read(self, _size: int = -1, /) -> bytes:
                piece = next(pieces, None)
                if piece is None:
                    raise failure
                return piece

        with pytest.raises(type(failure)) as caught:
            bench.store.write(MODEL, Source())
        assert caught.value is failure
        expected = [] if old is None else ["model.tar"]
        wait_until(lambda: bench.names("/models") == expected, "nothing left behind")
        assert bench.content(MODEL) == old

    @pytest.mark.needs(uploads=True)
    def test_file_is_removed(self, bench: Bench) -> None:
        """A file is removed alone, and one that is absent already is no fault."""
        bench.put(MODEL)
        bench.put(DONEFILE)
        for _ in range(2):
            bench.store.remove(MODEL)
            assert bench.names("/models") == ["donefile"]
        bench.store.remove("/absent/model.tar")

    @pytest.mark.needs(uploads=True)
    def test_folder_is_not_removed(self, bench: Bench) -> None:
        """A folder is never removed with what is in it."""
        bench.put(f"{MODEL}/weights", b"1")
        with fault(Refused, f"removing {bench.store.describe(MODEL)}"):
            bench.store.remove(MODEL)
        assert bench.content(f"{MODEL}/weights") == b"1"

    @pytest.mark.needs(uploads=False)
    def test_removal_is_refused(self, bench: Bench) -> None:
        """Where files cannot be removed the message says so, and what to do."""
        bench.put(MODEL, b"1")
        with fault(Refused, f"removing {bench.store.describe(MODEL)}"):
            bench.store.remove(MODEL)
        assert bench.content(MODEL) == b"1"

    @pytest.mark.needs(uploads=False)
    def test_upload_is_refused(self, bench: Bench) -> None:
        """Where files cannot be uploaded the message says so, and what to do."""
        with fault(Refused, f"uploading {bench.store.describe(MODEL)}"):
            bench.store.write(MODEL, io.BytesIO(b"model"))
        assert bench.names("/") == []

    # refusals

    @pytest.mark.needs(forbids=True)
    def test_forbidden_file_is_refused(self, bench: Bench) -> None:
        """A file that the store may not read is refused, and named."""
        with bench.forbidden() as path:
            where = bench.store.describe(path)
            with fault(Refused, f"opening {where}"):
                read(bench.store, path)
            with fault(Refused, f"opening {where}"):
                bench.store.donefile(path)


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "asking for": lambda store: store.stat(DONEFILE),
    "opening": lambda store: store.donefile(DONEFILE),
    "listing": lambda store: store.list(DONEFILE),
    "uploading": lambda store: store.write(DONEFILE, io.BytesIO(b"new")),
    "removing": lambda store: store.remove(DONEFILE),
}
"""Everything that a store does, by the word that its messages begin with."""


class NetworkStoreContract(StoreContract):
    """What every store behind a network must do besides."""

    @pytest.mark.parametrize("doing", OPERATIONS)
    def test_closed_port_is_unreachable(self, bench: NetworkBench, doing: str) -> None:
        """A server that does not run is unreachable, and the message says which."""
        with (
            nobody() as address,
            bench.connect(address) as store,
            fault(StoreUnreachable, f"{doing} {store.describe(DONEFILE)}", str(address.port), "refused"),
        ):
            OPERATIONS[doing](store)

    @pytest.mark.parametrize("doing", OPERATIONS)
    def test_unknown_host_is_unreachable(self, bench: NetworkBench, doing: str) -> None:
        """A host that nobody knows is unreachable, and the message says which."""
        unknown = bench.address._replace(host="no-such-host.invalid")
        with (
            bench.connect(unknown) as store,
            fault(StoreUnreachable, f"{doing} {store.describe(DONEFILE)}", "no-such-host.invalid"),
        ):
            OPERATIONS[doing](store)

    @pytest.mark.needs(asks_password=True)
    @pytest.mark.parametrize("doing", OPERATIONS)
    def test_wrong_password_is_refused(self, bench: NetworkBench, doing: str, caplog: pytest.LogCaptureFixture) -> None:
        """A wrong password is refused and never shown, neither by the message nor by the log."""
        bench.put(DONEFILE, b"old")
        caplog.set_level("DEBUG")
        with (
            bench.connect(password=WRONG_PASSWORD) as store,
            fault(Refused, f"{doing} {store.describe(DONEFILE)}", "password"),
        ):
            OPERATIONS[doing](store)
        assert bench.content(DONEFILE) == b"old"
        assert WRONG_PASSWORD not in caplog.text

    @pytest.mark.needs(keeps_connections=True)
    def test_questions_share_connections(self, bench: NetworkBench) -> None:
        """However often a store is asked about files, there or not, it makes no more connections than for the first."""
        bench.put(DONEFILE, b"1")
        with CuttingProxy(bench.address).running() as proxy, bench.connect(proxy.address) as store:
            store.stat(DONEFILE)
            first = len(proxy.answered)
            for _ in range(3):
                store.stat(DONEFILE)
                with pytest.raises(NotThereYet):
                    store.stat(MODEL)
            assert len(proxy.answered) == first > 0

    @pytest.mark.parametrize("doing", ["asking for", "opening"])
    def test_cut_answer_is_unreachable(self, bench: NetworkBench, doing: str) -> None:
        """A connection that ends before an answer is unreachable."""
        bench.put(DONEFILE, b"1")
        proxy = CuttingProxy(bench.address, cuts=[10], gone_after=1)
        with (
            proxy.running(),
            bench.connect(proxy.address) as store,
            fault(StoreUnreachable, f"{doing} {store.describe(DONEFILE)}"),
        ):
            OPERATIONS[doing](store)

    @staticmethod
    def proxy(bench: NetworkBench, **arguments: Any) -> CuttingProxy:
        """Make a proxy that cuts connections which carry files."""
        return CuttingProxy(bench.address, spared=bench.connections_without_files, **arguments)

    @pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
    def test_broken_transfer_goes_on(self, bench: NetworkBench, *, reset: bool) -> None:
        """A transfer that breaks off in the middle goes on, and the file is whole all the same."""
        content = random_bytes(2 * CHUNK)
        bench.put(MODEL, content, mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[CHUNK, 1000], reset=reset)
        with proxy.running(), bench.connect(proxy.address) as store:
            if not self.offers.tells_times:
                with fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "from the beginning"):
                    read(store, MODEL)
                return
            assert read(store, MODEL) == content
        assert len(proxy.answered) == 3

    @pytest.mark.needs(tells_times=True)
    def test_broken_transfer_sends_nothing_twice(self, bench: NetworkBench) -> None:
        """Where the server can, only what is missing is sent after a break, else the file is sent anew."""
        content = random_bytes(2 * CHUNK)
        bench.put(MODEL, content, mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[CHUNK])
        with proxy.running(), bench.connect(proxy.address) as store:
            assert read(store, MODEL) == content
        anew = 2 * CHUNK
        assert proxy.answered[1] > CHUNK
        assert (proxy.answered[1] < anew) == self.offers.ranges

    @pytest.mark.needs(tells_times=True, ranges=True)
    def test_every_break_makes_progress(self, bench: NetworkBench) -> None:
        """A transfer that breaks off more often than it is tried again arrives, as long as each time something came."""
        content = random_bytes(1_000_000)
        bench.put(MODEL, content, mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[150_000] * 20)
        with proxy.running(), bench.connect(proxy.address) as store:
            assert len(store.resume_pauses) < len(content) // 150_000
            assert read(store, MODEL) == content

    @pytest.mark.needs(tells_times=True)
    def test_transfer_that_stays_broken_is_unreachable(self, bench: NetworkBench) -> None:
        """A transfer that breaks off and cannot go on is unreachable, and says what it was that broke off."""
        bench.put(MODEL, random_bytes(2 * CHUNK), mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[CHUNK], gone_after=1)
        with (
            proxy.running(),
            bench.connect(proxy.address) as store,
            fault(StoreUnreachable, f"reading {store.describe(MODEL)}"),
        ):
            read(store, MODEL)

    @pytest.mark.parametrize("same_second", [False, True])
    def test_file_replaced_meanwhile_is_not_continued(self, bench: NetworkBench, *, same_second: bool) -> None:
        """Half of one file and half of another are never joined, not even if both came in one second."""
        size = 2 * CHUNK
        # the store's clock has not left the second of the first upload
        mtime = int(time.time()) + 60 if same_second else LONG_AGO
        bench.put(MODEL, random_bytes(size, seed=1), mtime=mtime)

        def replace() -> None:
            bench.put(MODEL, random_bytes(size, seed=2), mtime=mtime if same_second else LONG_AGO + 1)

        proxy = self.proxy(bench, cuts=[CHUNK], before_cut=replace)
        with proxy.running(), bench.connect(proxy.address) as store, store.open(MODEL) as file:
            with fault(StoreUnreachable, f"reading {store.describe(MODEL)}", "from the beginning"):
                file.read()
            with pytest.raises(StoreUnreachable):
                file.read()

    def test_file_removed_meanwhile_is_not_there_yet(self, bench: NetworkBench) -> None:
        """A file that is removed while its transfer is broken is not there yet."""
        bench.put(MODEL, random_bytes(2 * CHUNK), mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[CHUNK], before_cut=lambda: bench.remove(MODEL))
        with (
            proxy.running(),
            bench.connect(proxy.address) as store,
            fault(NotThereYet, f"opening {store.describe(MODEL)}"),
        ):
            read(store, MODEL)

    @pytest.mark.needs(uploads=True, renames=True)
    @pytest.mark.parametrize("old", [None, b"the old model"])
    def test_broken_upload_leaves_nothing(self, bench: NetworkBench, old: bytes | None) -> None:
        """An upload that breaks off is unreachable, and neither target nor temporary file stay."""
        bench.make_folder("/models")
        if old is not None:
            bench.put(MODEL, old)
        proxy = self.proxy(bench, cuts_of_requests=[CHUNK])
        with proxy.running(), bench.connect(proxy.address) as store:
            with fault(StoreUnreachable, f"uploading {store.describe(MODEL)}"):
                store.write(MODEL, io.BytesIO(random_bytes(2 * CHUNK)))
            expected = [] if old is None else ["model.tar"]
            wait_until(lambda: bench.names("/models") == expected, "nothing left behind")
        assert bench.content(MODEL) == old
