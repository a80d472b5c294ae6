"""What the rows of an autoindex page tell of files, as nginx, Apache, lighttpd and their like write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from html import unescape
from urllib.parse import unquote

from airflow_serving_reload.delivery.stores.base import SECOND_NS, FileFacts

ROW = re.compile(
    r"""<a\s[^>]*?href="(?:\./)?(?P<name>[^"/?#]+)"[^>]*>[^<]*</a>"""
    r"(?:\s|&nbsp;|</?t[dr]\b[^>]*>)*"
    r"(?P<date>\d\d-[A-Z][a-z]{2}-\d{4}|\d{4}-(?:\d\d|[A-Z][a-z]{2})-\d\d)[ T](?P<time>\d\d:\d\d(?P<seconds>:\d\d)?)"
    r"(?:\s|&nbsp;|</?t[dr]\b[^>]*>)*(?P<size>[\d.]*[A-Za-z]*)",
    re.ASCII,
)
"""A link one name down to a file, the time behind it, and most often its length."""

FILE = re.compile(r"""<a\s[^>]*?href="(?:\./)?[^"/?#]+"[^>]*>""", re.ASCII)
"""A link one name down to a file."""

DATES = {11: ("%d-%b-%Y", "%Y-%b-%d"), 10: ("%Y-%m-%d",)}
"""Forms of dates, by the number of their characters."""


def rows_of(page: str) -> Mapping[str, FileFacts] | None:
    """Read what a page tells of the files that it lists; None if it tells no times of them.

    The times are in whatever zone the server writes them. A length that is rounded is left out.

    :param page: text of the page.
    """
    facts: dict[str, FileFacts] = {}
    for row in ROW.finditer(page):
        if (mtime_ns := _moment(row["date"], row["time"])) is not None:
            facts[unquote(unescape(row["name"]), errors="surrogateescape")] = FileFacts(
                size=int(row["size"]) if row["size"].isdecimal() else None,
                mtime_ns=mtime_ns,
                resolution_ns=SECOND_NS if row["seconds"] else 60 * SECOND_NS,
            )
    return facts if facts or not FILE.search(page) else None


@lru_cache
def _moment(date: str, time: str) -> int | None:
    form = "%H:%M:%S" if time.count(":") > 1 else "%H:%M"
    for of_date in DATES[len(date)]:
        try:
            moment = datetime.strptime(f"{date} {time}", f"{of_date} {form}").replace(tzinfo=UTC)
        except ValueError:
            continue
        return int(moment.timestamp()) * SECOND_NS
    return None
