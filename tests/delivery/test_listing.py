"""What a listing proves about a donefile, and what the pages of servers tell of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_serving_reload.delivery import listing as listing_module
from airflow_serving_reload.delivery.donefile import version_of
from airflow_serving_reload.delivery.listing import Evidence
from airflow_serving_reload.delivery.stores.base import SECOND_NS, FileFacts
from airflow_serving_reload.delivery.stores.http_pages import rows_of

MINUTE_NS = 60 * SECOND_NS
MTIME_NS = 1_790_000_031 * SECOND_NS
LISTED = FileFacts(size=1, mtime_ns=MTIME_NS // MINUTE_NS * MINUTE_NS, resolution_ns=MINUTE_NS, etag="t")
LISTING = {"donefile": LISTED, "another": FileFacts(size=2)}


def seen(content=b"1", *, mtime_ns=MTIME_NS, age_ns=2 * MINUTE_NS):
    """Make the version that a look saw, so long after its upload."""
    return version_of(
        content,
        path="/donefile",
        mtime_ns=mtime_ns,
        resolution_ns=SECOND_NS,
        etag=None,
        observed_ns=age_ns + (mtime_ns or 0),
    )


def evidence_of(first, second, listed=LISTING, name="donefile"):
    """Look, list, and look again."""
    evidence = Evidence(name)
    evidence.looked(first, None)
    evidence.looked(second, listed)
    return evidence


def test_same_listing_proves_the_same_donefile():
    """A listing that tells what another one told between two equal looks proves that nothing changed."""
    assert evidence_of(seen(), seen()).proves_unchanged({"donefile": LISTED})


def test_time_zone_of_a_listing_does_not_matter():
    """Listings are compared with one another alone, so their times may be those of any zone."""
    there = {"donefile": replace(LISTED, mtime_ns=MTIME_NS + 8 * 60 * MINUTE_NS)}
    assert evidence_of(seen(), seen(), there).proves_unchanged(there)
    assert not evidence_of(seen(), seen(), there).proves_unchanged(LISTING)


@pytest.mark.parametrize(
    "later",
    [
        None,
        {},
        {"donefile": replace(LISTED, mtime_ns=MTIME_NS)},
        {"donefile": replace(LISTED, size=2)},
        {"donefile": replace(LISTED, etag="u")},
        {"donefile": replace(LISTED, resolution_ns=SECOND_NS)},
    ],
)
def test_another_listing_proves_nothing(later):
    """A listing that tells anything else of the donefile, or nothing, has it looked at."""
    assert not evidence_of(seen(), seen()).proves_unchanged(later)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (seen(), seen(b"2")),
        (None, seen()),
        (seen(age_ns=2 * MINUTE_NS - 1), seen(age_ns=2 * MINUTE_NS - 1)),
        (seen(age_ns=-1), seen(age_ns=-1)),
        (seen(mtime_ns=None), seen(mtime_ns=None)),
    ],
    ids=["changed", "appeared", "young", "ahead", "timeless"],
)
def test_no_proof_where_a_listing_could_hide_an_upload(first, second):
    """Nothing is proved where the looks differ, or where a later upload could have the time that was listed."""
    assert not evidence_of(first, second).proves_unchanged(LISTING)


@pytest.mark.parametrize("told", [{}, {"donefile": FileFacts(size=1)}])
def test_no_proof_without_a_time(told):
    """A donefile that listings leave out, or tell no time of, is looked at each time."""
    assert not evidence_of(seen(), seen(), told).proves_unchanged(told)


def test_no_proof_without_two_looks():
    """Nothing is proved before the first listing between two looks, or after a look that failed."""
    evidence = Evidence("donefile")
    assert not evidence.proves_unchanged(LISTING)
    evidence.looked(seen(), LISTING)
    assert not evidence.proves_unchanged(LISTING)
    evidence.looked(seen(), LISTING)
    assert evidence.proves_unchanged(LISTING)
    evidence.forget()
    assert not evidence.proves_unchanged(LISTING)


def test_absence_is_proved_unless_the_name_is_hidden():
    """That a donefile is still absent is proved by a listing without it, but not where listings may leave it out."""
    assert evidence_of(None, None, {}).proves_unchanged({})
    assert not evidence_of(None, None, {}).proves_unchanged(LISTING)
    assert not evidence_of(None, None, {}, ".donefile").proves_unchanged({})


@pytest.mark.parametrize(("name", "looked"), [("TRUSTED_SECONDS", seen()), ("ABSENCE_TRUSTED_SECONDS", None)])
def test_trust_ends(monkeypatch, name, looked):
    """Listings do not stand in for looks for ever."""
    monkeypatch.setattr(listing_module, name, 0.0)
    told = LISTING if looked else {}
    assert not evidence_of(looked, looked, told).proves_unchanged(told)


NGINX = '<pre><a href="../">../</a>\r\n<a href="{href}">{text}</a>      {time}      {size}\r\n</pre>'
APACHE = '<img src="/icons/unknown.gif" alt="[   ]"> <a href="{href}">{text}</a>   {time}  {size}\n<hr>'
APACHE_TABLE = (
    '<tr><td valign="top"><img src="/icons/unknown.gif" alt="[   ]"></td><td><a href="{href}">{text}</a></td>'
    '<td align="right">{time}  </td><td align="right">{size}</td><td>&nbsp;</td></tr>'
)
LIGHTTPD = (
    '<tr class="d"><td class="n"><a href="{href}">{text}</a></td><td class="m">{time}</td><td class="s">{size}</td>'
)


@pytest.mark.parametrize(
    ("page", "time", "size", "resolution_ns", "exact"),
    [
        (NGINX, "22-Nov-2026 12:34", "123", MINUTE_NS, 123),
        (NGINX, "22-Nov-2026 12:34", "12M", MINUTE_NS, None),
        (APACHE, "2026-11-22 12:34", "123 ", MINUTE_NS, 123),
        (APACHE_TABLE, "2026-11-22 12:34", "1.2K", MINUTE_NS, None),
        (LIGHTTPD, "2026-Nov-22 12:34:00", "0.1K", SECOND_NS, None),
    ],
)
def test_rows_of_servers_are_read(page, time, size, resolution_ns, exact):
    """Of each kind of page the names, the times with their step, and the exact lengths are read."""
    page = page.format(href="a%20%26&amp;%E6%A8%A1", text="a &amp;&amp;模", time=time, size=size)
    assert rows_of(page) == {
        "a &&模": FileFacts(size=exact, mtime_ns=1795350840 * SECOND_NS, resolution_ns=resolution_ns)
    }


@pytest.mark.parametrize(
    ("page", "facts"),
    [
        ('<ul><li><a href="donefile">donefile</a></li></ul>', None),
        ('<pre><a href="../">../</a>\n<a href="folder/">folder/</a>   22-Nov-2026 12:34   -\n</pre>', {}),
        ('<a href="donefile">donefile</a>   31-Feb-2026 12:34   1', None),
        ("<pre></pre>", {}),
    ],
)
def test_pages_without_times_are_known_as_such(page, facts):
    """A page that names files without their times tells nothing, while one without files tells that there are none."""
    assert rows_of(page) == facts
