"""The contract over nginx, in every variant that a store may meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import pytest

from .bench import HttpBench, Offers
from .nginx import Nginx
from .suite import NetworkStoreContract

FULL = Offers(lists=True, lists_hidden=False, uploads=True, renames=True, ranges=True, forbids=True)


class NginxBench(HttpBench):
    """A store on one location of nginx."""

    @contextmanager
    def forbidden(self) -> Iterator[str]:
        """Give the path of a file that nginx's configuration closes."""
        path = "/models/forbidden"
        self.put(path, b"secret")
        yield path


class OverNginx(NetworkStoreContract):
    """The contract over one location of nginx."""

    variant: ClassVar[str]
    tls: ClassVar[bool] = False

    @pytest.fixture
    def bench(self, nginx: Nginx) -> NginxBench:
        """Give a store on the location."""
        return NginxBench(
            nginx.files / self.variant,
            nginx.tls_address if self.tls else nginx.address,
            f"/{self.variant}",
            certificate_authority=nginx.authority if self.tls else None,
            asks_password=self.offers.asks_password,
        )


class TestFull(OverNginx):
    """nginx with tags, ranges, listings and uploads."""

    variant = "full"
    offers = FULL


class TestTls(OverNginx):
    """nginx behind TLS, by an authority that the session was told of."""

    variant = "full"
    tls = True
    offers = FULL


class TestWithoutTags(OverNginx):
    """nginx that tells only the time of a file."""

    variant = "without-tags"
    offers = FULL


class TestWithoutRanges(OverNginx):
    """nginx that sends files only whole."""

    variant = "without-ranges"
    offers = replace(FULL, ranges=False)


class TestWithoutTimes(OverNginx):
    """nginx that tells neither tags nor times."""

    variant = "without-times"
    offers = replace(FULL, tells_times=False, ranges=False)


class TestWithoutListings(OverNginx):
    """nginx with its autoindex off."""

    variant = "without-listings"
    offers = replace(FULL, lists=False, scans=False)


class TestWithoutMoves(OverNginx):
    """nginx that takes files but does not rename them."""

    variant = "without-moves"
    offers = replace(FULL, renames=False)


class TestWithoutUploads(OverNginx):
    """nginx that only serves."""

    variant = "without-uploads"
    offers = replace(FULL, uploads=False, renames=False)


class TestWithPassword(OverNginx):
    """nginx with basic authentication."""

    variant = "with-password"
    offers = replace(FULL, asks_password=True)
