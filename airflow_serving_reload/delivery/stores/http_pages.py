"""What autoindex pages tell of a folder, as nginx, Apache, lighttpd and their like write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

from airflow_serving_reload.delivery.stores.base import SECOND_NS, Entry, FileFacts

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
            facts[_unquoted(unescape(row["name"]))] = FileFacts(
                size=int(row["size"]) if row["size"].isdecimal() else None,
                mtime_ns=mtime_ns,
                resolution_ns=SECOND_NS if row["seconds"] else 60 * SECOND_NS,
            )
    return facts if facts or not FILE.search(page) else None


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (target := dict(attrs).get("href")):
            self.targets.append(target)


def links_of(page: str, folder_path: str) -> list[Entry]:
    """Read the entries of a folder out of a page: the links that lead exactly one name down.

    :param page: text of the page.
    :param folder_path: path of the folder in the page's address.
    """
    anchors = _Anchors()
    anchors.feed(page)
    folder = [_unquoted(step) for step in folder_path.split("/")][:-1]
    entries: dict[str, Entry] = {}
    for target in anchors.targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc or parts.query or parts.path.startswith("../") or parts.path == "..":
            continue
        # split before decoding: an encoded slash belongs to a name, which the store then refuses
        steps = [_unquoted(step) for step in parts.path.removeprefix("./").split("/")]
        if parts.path.startswith("/"):
            if steps[: len(folder)] != folder:
                continue
            steps = steps[len(folder) :]
        if steps[0] and steps[1:] in ([], [""]):
            entries[steps[0]] = Entry(steps[0], is_folder=len(steps) > 1)
    return list(entries.values())


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


def _unquoted(path: str) -> str:
    return unquote(path, errors="surrogateescape")
