"""What tells two states of a donefile apart, and what one look at it means."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery.donefile import SMALL, Decision, DonefileVersion, decide, version_of
from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.delivery.stores.fs import FileSystemStore

SECOND_NS = 1_000_000_000
NOON_NS = 1_700_000_000 * SECOND_NS


def looked_at(content: bytes = b"", **facts: Any) -> DonefileVersion:
    """Make a version as a store does, of a donefile written at noon and looked at a minute later."""
    given: dict[str, Any] = {
        "path": "/models/donefile",
        "mtime_ns": NOON_NS,
        "resolution_ns": 1,
        "etag": None,
        "observed_ns": NOON_NS + 60 * SECOND_NS,
    }
    return version_of(content, **{**given, **facts})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(looked_at(mtime_ns=NOON_NS + 1), id="mtime"),
        pytest.param(looked_at(b" "), id="size"),
        pytest.param(looked_at(etag="b"), id="etag"),
    ],
)
def test_each_fact_tells_two_versions_apart(other: DonefileVersion) -> None:
    """A difference in any one fact makes another version."""
    assert looked_at(etag="a" if other.etag else None) != other


def test_content_of_equal_length_tells_two_versions_apart() -> None:
    """Two uploads of equal length within the same second differ by their content."""
    assert looked_at(b'{"version": 1}') != looked_at(b'{"version": 2}')


def test_where_and_when_it_was_seen_is_no_fact() -> None:
    """The same upload seen twice is one version, whatever the moment and the path of the look."""
    assert looked_at() == looked_at(observed_ns=NOON_NS + SECOND_NS // 2, path="/elsewhere", resolution_ns=SECOND_NS)


@pytest.mark.parametrize(
    ("age_ns", "resolution_ns", "settled"),
    [
        (0, SECOND_NS, False),
        (2 * SECOND_NS - 1, SECOND_NS, False),
        (2 * SECOND_NS, SECOND_NS, True),
        (1, 1, False),
        (2, 1, True),
        (119 * SECOND_NS, 60 * SECOND_NS, False),
        (-1, SECOND_NS, False),
        (-SECOND_NS, SECOND_NS, False),
        (-SECOND_NS - 1, SECOND_NS, True),
    ],
)
def test_a_young_version_is_unsettled(age_ns: int, resolution_ns: int, settled: bool) -> None:
    """A version counts as settled once its time is two of the store's steps past, or lies more than one ahead."""
    assert looked_at(resolution_ns=resolution_ns, observed_ns=NOON_NS + age_ns).settled is settled


@pytest.mark.parametrize("facts", [{"mtime_ns": None, "etag": "a"}, {"resolution_ns": 60 * SECOND_NS}])
def test_a_version_that_names_its_model_or_has_no_time_is_settled(facts: dict[str, Any]) -> None:
    """No waiting helps where the content names the model's digest, or where there is no time to wait for."""
    assert looked_at(b'{"sha256": "ab"}', observed_ns=NOON_NS, **facts).settled


def test_decisions() -> None:
    """A look means missing, unchanged, unsettled or changed, against the last version known."""
    first, young = looked_at(), looked_at(mtime_ns=NOON_NS + 60 * SECOND_NS, resolution_ns=SECOND_NS)
    assert not young.settled
    assert decide(None, None) is decide(None, first) is Decision.MISSING
    assert decide(first, None) is Decision.CHANGED
    assert decide(first, first) is Decision.UNCHANGED
    assert decide(young, first) is decide(young, None) is Decision.UNSETTLED
    assert decide(young, young) is Decision.UNCHANGED
    assert decide(first, young) is Decision.CHANGED


def test_it_survives_json() -> None:
    """A version is the same, content and all, after its dict went through JSON; unknown keys are no obstacle."""
    version = looked_at('{"version": "七", "sha256": "AB", "size": 7}'.encode(), etag='"x"')
    again = DonefileVersion.from_dict(json.loads(json.dumps({**version.to_dict(), "new": 1})))
    assert again == version
    assert again.to_dict() == version.to_dict()
    assert (again.model_sha256, again.model_size, again.path) == ("ab", 7, "/models/donefile")


@pytest.mark.parametrize(
    "content",
    [b"", b"done\n", b"[1]", b'"text"', b"\xff\xfe", b"[" * SMALL, b'{"a":' * 10_000, b'{"sha256": 1, "size": "7"}'],
    ids=lambda content: content[:8].decode("latin-1"),
)
def test_any_content_is_a_donefile(content: bytes) -> None:
    """Content that promises nothing about the model is part of the version all the same."""
    version = looked_at(content)
    assert (version.model_sha256, version.model_size) == (None, None)
    assert (version.size, version.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "unportable",
    [
        b'{"loss": NaN}',
        b'{"loss": -Infinity}',
        b'{"trace": 158456325028528675187087900672}',
        b'{"note": "\\ud83d"}',
        b'{"no\\u0000te": 1}',
        b'{"note": "\\u0000"}',
        b'{"__classname__": "builtins.set"}',
        b'{"metrics": {"__type": 1}}',
    ],
)
def test_what_not_everything_can_carry_is_left_out(unportable: bytes) -> None:
    """Of the content goes on only what JSON, msgpack, Airflow's serialisation and databases all can carry."""
    content = unportable.replace(b"{", b'{"version": "v1", "size": 7, "loss1": 0.5, "is_best": true, "from": null, ', 1)
    version = looked_at(content)
    assert version.content == {"version": "v1", "size": 7, "loss1": 0.5, "is_best": True, "from": None}
    assert version != looked_at(content.replace(b"0.5", b"0.6"))


def test_it_is_described_for_people() -> None:
    """A version is described by its name, time, length and tag."""
    assert str(looked_at(b'{"version": "v7"}', etag="x")) == (
        "version v7, of 2023-11-14T22:13:20.000Z, 17 bytes, tag x"
    )
    assert str(DonefileVersion()) == "without any fact"


def test_two_empty_donefiles_of_a_folder(tmp_path: Path) -> None:
    """A local store sees two empty donefiles apart whose times differ by a nanosecond."""
    donefile = tmp_path / "donefile"
    donefile.touch()
    seen = []
    for mtime_ns in (NOON_NS + 1, NOON_NS + 2):
        os.utime(donefile, ns=(mtime_ns, mtime_ns))
        seen.append(FileSystemStore(tmp_path).donefile("/donefile"))
    assert seen[0] is not None
    assert seen[0] != seen[1]


def test_a_missing_donefile_is_no_fault(tmp_path: Path) -> None:
    """A store without the donefile gives none, rather than a fault."""
    assert FileSystemStore(tmp_path).donefile("/donefile") is None


def test_a_long_file_is_no_donefile(tmp_path: Path) -> None:
    """A file longer than any donefile is refused by name, without being read whole."""
    (tmp_path / "donefile").write_bytes(b" " * (SMALL + 1))
    with pytest.raises(Refused, match="check remote_donefile_name"):
        FileSystemStore(tmp_path).donefile("/donefile")
