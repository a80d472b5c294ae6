"""Fixtures: the demo's servers, and trained models for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_serving_reload.demo import housing

from .running import Servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Start servers for one module of tests and end them after it."""
    started = Servers(tmp_path_factory.mktemp("servers"))
    yield started
    started.end_all()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three model folders, named after the seeds that they were trained with."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (1, 2, 3):
        housing.train(folder / f"seed-{seed}", seed=seed, epochs=1)
    return {path.name: path for path in folder.iterdir()}
