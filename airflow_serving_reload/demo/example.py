"""What the example Dags have in common: training and its form, where training and serving happen, the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, Param

from airflow_serving_reload.operators import PaddleServer

if TYPE_CHECKING:
    from airflow.sdk import Context

TRAINING_PATH = os.environ.get("UCI_HOUSING_TRAINING_PATH", "/srv/training")
"""Folder on the training host in which models are made."""

SERVING_PATH = os.environ.get("UCI_HOUSING_SERVING_PATH", "/srv/serving")
"""Folder on the serving host in which the server was started."""

POKE_INTERVAL = float(os.environ.get("UCI_HOUSING_POKE_INTERVAL", "10"))
"""Seconds between two looks at a donefile."""

TRAINING_SCHEDULE = os.environ.get("UCI_HOUSING_TRAINING_SCHEDULE", "*/10 * * * *") or None
"""When a model is trained; empty for only by hand."""

SERVER = PaddleServer(
    log_path=os.environ.get("UCI_HOUSING_SERVER_LOG", f"{SERVING_PATH}/log/serving.INFO"),
    probe_url=os.environ.get("UCI_HOUSING_SERVER_URL", "http://127.0.0.1:9393/predict"),
    reload_interval=float(os.environ.get("UCI_HOUSING_RELOAD_INTERVAL", "10")),
)

TRAINING_FORM: dict[str, Any] = {
    "version": Param(
        None,
        type=["null", "string"],
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$",
        title="Version",
        description_md="What to call the new model; the time of the upload if left empty.",
    ),
    "epochs": Param(
        30,
        type="integer",
        minimum=1,
        maximum=1000,
        title="Epochs",
        description_md="How often training goes through the 404 houses that it learns from.",
    ),
    "seed": Param(
        0,
        type="integer",
        minimum=0,
        maximum=2**31 - 1,
        title="Seed",
        description_md="Another seed gives a slightly different model.",
    ),
}


class TrainHousingOperator(BaseOperator):
    """Train Paddle's housing regression by the form's fields, in a folder of its own below `TRAINING_PATH`.

    :param folder: name of that folder.
    :return: path of the trained model's folder.
    """

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    def execute(self, context: Context) -> str:
        """Train."""
        from pathlib import Path

        from airflow_serving_reload.demo import housing

        form = context["params"]
        model = Path(TRAINING_PATH, self.folder, "uci_housing_model")
        self.log.info("%s", housing.train(model, seed=form["seed"], epochs=form["epochs"]))
        return str(model)
