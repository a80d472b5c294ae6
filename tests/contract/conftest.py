"""Servers that the bindings share, and the rule that a store runs the tests that fit what its server offers."""

from __future__ import annotations

import pytest

from tests.stores import Servers

from .nginx import Nginx


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker of the suite known."""
    config.addinivalue_line("markers", "needs(**offers): runs only over stores that offer exactly this")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, for each binding, the tests of what its server does not offer."""
    unfit = {item for item in items if not _fits(item)}
    if unfit:
        config.hook.pytest_deselected(items=list(unfit))
        items[:] = [item for item in items if item not in unfit]


def _fits(item: pytest.Item) -> bool:
    offers = getattr(getattr(item, "cls", None), "offers", None)
    return offers is None or all(
        getattr(offers, name) == wanted for mark in item.iter_markers("needs") for name, wanted in mark.kwargs.items()
    )


@pytest.fixture(scope="session")
def nginx(servers: Servers) -> Nginx:
    """Start nginx with all its variants."""
    return servers.nginx
