"""The Boston housing prices, and the regression that the demo trains on them.

``uci_housing.csv`` beside this file holds the 506 census tracts of D. Harrison and D. L. Rubinfeld, "Hedonic
prices and the demand for clean air", Journal of Environmental Economics and Management 5 (1978), as StatLib and
the R package MASS (data set ``Boston``) publish them: 13 features and ``MEDV``, the median price in thousands of
dollars.

Paddle is imported by :func:`train` alone, so that a Dag file may import this module for nothing.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

FEATURE_NAMES = (
    "CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT",
)  # fmt: skip
PRICE_NAME = "MEDV"

SAMPLE_HOUSE = (0.00632, 18.0, 2.31, 0.0, 0.538, 6.575, 65.2, 4.09, 1.0, 296.0, 15.3, 396.9, 4.98)
"""The raw features of the first tract; its price is 24.0. What a probe asks the model server about."""

TRAINING_SHARE = 0.8
LEARNING_RATE = 0.01
BATCH_SIZE = 16

_DATA_FILE = Path(__file__).with_name("uci_housing.csv")

_SERVING_CONFIGURATION = """\
feed_var {
  name: "x"
  alias_name: "x"
  is_lod_tensor: false
  feed_type: 1
  shape: 13
}
fetch_var {
  name: "fetch_name_0"
  alias_name: "price"
  is_lod_tensor: false
  fetch_type: 1
  shape: 1
}
"""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What one training run used and reached; the errors are in squared thousands of dollars."""

    rows: int
    epochs: int
    train_mean_squared_error: float
    test_mean_squared_error: float


def features_and_prices() -> tuple[list[list[float]], list[float]]:
    """Read the data set.

    :return: the 13 raw features of every tract, in the order of ``FEATURE_NAMES``, and the prices.
    """
    with _DATA_FILE.open(newline="", encoding="ascii") as lines:
        tracts = list(csv.DictReader(lines))
    features = [[float(tract[name]) for name in FEATURE_NAMES] for tract in tracts]
    return features, [float(tract[PRICE_NAME]) for tract in tracts]


def normalise(features: Sequence[float]) -> list[float]:
    """Bring raw features to the scale that the model is trained on: ``(x - mean) / (maximum - minimum)``.

    :param features: 13 numbers in the order of ``FEATURE_NAMES``.
    """
    means, spans = _means_and_spans()
    return [(feature - mean) / span for feature, mean, span in zip(features, means, spans, strict=True)]


@cache
def _means_and_spans() -> tuple[tuple[float, ...], tuple[float, ...]]:
    columns = list(zip(*features_and_prices()[0], strict=True))
    means = tuple(sum(column) / len(column) for column in columns)
    return means, tuple(max(column) - min(column) for column in columns)


def train(model_path: Path, *, seed: int, epochs: int) -> TrainingReport:
    """Train the linear regression and save it as a model folder that Paddle Serving's launcher accepts.

    The folder gets ``model.json`` and ``model.pdiparams``, Paddle's inference format, and
    ``serving_server_conf.prototxt``. The same seed and number of epochs give the same model, others another one.

    :param model_path: the folder to write; it is made where it is missing.
    :param seed: seed of the initial weights and of the order of the rows.
    :param epochs: passes over the training rows, at least one.
    :return: the mean squared errors of the saved weights over the training rows and over the rows held back.
    :raises ValueError: if ``epochs`` is less than one.
    """
    if epochs < 1:
        raise ValueError(f"cannot train for {epochs} epochs: at least 1 is wanted")
    import numpy as np
    import paddle

    features, prices = features_and_prices()
    x = np.array([normalise(house) for house in features], dtype=np.float32)
    y = np.array(prices, dtype=np.float32).reshape(-1, 1)
    training_rows = int(len(x) * TRAINING_SHARE)

    paddle.seed(seed)
    row_order = np.random.default_rng(seed)
    model = paddle.nn.Linear(len(FEATURE_NAMES), 1)
    optimizer = paddle.optimizer.SGD(learning_rate=LEARNING_RATE, parameters=model.parameters())
    for _ in range(epochs):
        order = row_order.permutation(training_rows)
        for start in range(0, training_rows, BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            loss = paddle.nn.functional.mse_loss(model(paddle.to_tensor(x[batch])), paddle.to_tensor(y[batch]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()

    model_path.mkdir(parents=True, exist_ok=True)
    feed = paddle.static.InputSpec([None, len(FEATURE_NAMES)], "float32", "x")
    paddle.jit.save(paddle.jit.to_static(model, input_spec=[feed], full_graph=True), str(model_path / "model"))
    (model_path / "serving_server_conf.prototxt").write_text(_SERVING_CONFIGURATION, encoding="ascii")
    return TrainingReport(
        rows=len(x),
        epochs=epochs,
        train_mean_squared_error=_mean_squared_error(model, x[:training_rows], y[:training_rows]),
        test_mean_squared_error=_mean_squared_error(model, x[training_rows:], y[training_rows:]),
    )


def _mean_squared_error(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    import paddle

    with paddle.no_grad():
        return float(paddle.nn.functional.mse_loss(model(paddle.to_tensor(x)), paddle.to_tensor(y)))
