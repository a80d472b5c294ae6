"""The contract over the embedded store of the demo."""

from __future__ import annotations

import pytest

from airflow_serving_reload.demo.processes import Processes

from .bench import PASSWORD, USER, HttpBench, Offers
from .embedded import start
from .suite import NetworkStoreContract


@pytest.fixture(scope="session")
def embedded(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> HttpBench:
    """Start the embedded store, and give a store on it."""
    folder = tmp_path_factory.mktemp("embedded")
    return HttpBench(folder / "files", start(processes, folder))


@pytest.fixture(scope="session")
def embedded_with_password(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> HttpBench:
    """Start the embedded store with a user, and give a store on it."""
    folder = tmp_path_factory.mktemp("embedded-with-password")
    password_file = folder / "password"
    password_file.write_text(PASSWORD)
    address = start(processes, folder, "--user", USER, "--password-file", str(password_file))
    return HttpBench(folder / "files", address, asks_password=True)


class TestEmbedded(NetworkStoreContract):
    """The contract over the embedded store."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, tells_uploads_apart=True)

    @pytest.fixture
    def bench(self, embedded: HttpBench) -> HttpBench:
        """Give a store on the emptied folder."""
        return HttpBench(embedded.folder, embedded.address)


class TestEmbeddedWithPassword(NetworkStoreContract):
    """The contract over the embedded store with a user."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, tells_uploads_apart=True, asks_password=True)

    @pytest.fixture
    def bench(self, embedded_with_password: HttpBench) -> HttpBench:
        """Give a store on the emptied folder."""
        return HttpBench(embedded_with_password.folder, embedded_with_password.address, asks_password=True)
