"""A runtime for MLServer: a model of one number, which tells the release that it was loaded from."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.utils import get_model_uri


class LinearModel(MLModel):
    """A model that answers with its weight.

    Its file says how long it takes to load, letting other requests through or not, and whether it is ready then.
    """

    async def load(self) -> bool:
        """Read the weight from the file that the model's settings name."""
        file = Path(await get_model_uri(self.settings))
        told = json.loads(file.read_text())  # noqa: ASYNC240 - a few bytes
        self.release = file.parent.resolve().name
        self.weight = float(told["weight"])
        await asyncio.sleep(told.get("seconds", 0))
        time.sleep(told.get("seconds_alone", 0))  # noqa: ASYNC251 - as runtimes do that read large files
        return bool(told.get("ready", True))

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer with the weight."""
        weight = ResponseOutput(name="price", shape=[1], datatype="FP64", data=[self.weight])
        return InferenceResponse(model_name=self.name, outputs=[weight], parameters={"release": self.release})
