"""Hostile archives: refused with their own message or harmless, and nothing beside the folder is touched."""

from __future__ import annotations

import os

import pytest

from tests.delivery.packing import file, tar

from .archive_campaign import VALID, faults_of, fuzz, seen_around, surroundings
from .archives import CASES, harmless, refused


@pytest.mark.parametrize("name", CASES)
def test_hostile_archives(name: str) -> None:
    """Whatever a model has no business to hold is refused by what it is, or does no harm."""
    assert list(faults_of(CASES[name])) == []


@pytest.mark.parametrize("name", VALID)
def test_mutated_archives(name: str) -> None:
    """Whatever becomes of an archive on its way: it is refused by a fault of ours or unpacked, and never else."""
    tally = fuzz(name, 40, anew=False)
    assert tally.faults == []
    assert tally.refused > 0
    assert tally.harmless > 0


def test_what_would_be_seen() -> None:
    """A change of anything beside the folder, an archive refused for another reason, or not at all, is noticed."""
    with surroundings() as staging:
        before = seen_around(staging)
        (staging / "a").write_text("its own")
        assert seen_around(staging) == before
        for change in (
            lambda: (staging.parent / "outside" / "secret").write_text("unTouched"),
            lambda: os.link(staging.parent / "outside" / "secret", staging / "link"),
            (staging.parent.parent / "new").touch,
            lambda: staging.chmod(0o700),
        ):
            change()
            after = seen_around(staging)
            assert after != before
            before = after
    assert list(faults_of(refused(tar(file("m/a")), "")))
    assert list(faults_of(harmless(tar(file("../a")))))
    assert list(faults_of(refused(tar(file("../a")), "another reason")))
