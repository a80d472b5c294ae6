"""The contract over the embedded server, which keeps that of Paddle Serving."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from airflow_serving_reload.demo.processes import Processes

from .paddle import PaddleBench
from .suite import ServerContract, SlowServerContract

pytestmark = pytest.mark.xdist_group("paddle")


class TestPaddle(ServerContract):
    """A server that looks at the timestamp file all the time."""

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> PaddleBench:
        """Start the server."""
        return PaddleBench(tmp_path_factory.mktemp("paddle"), processes, 0.1, {})


class TestSlowPaddle(SlowServerContract):
    """A server that looks at the timestamp file long after its time is over."""

    slow: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def bench(self, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> PaddleBench:
        """Start the server, and describe it as one that reloads at once."""
        options = {"log_path": None, "reload_interval": 0, "load_timeout": 0.1}
        return PaddleBench(tmp_path_factory.mktemp("slow-paddle"), processes, 3600, options)
