"""The housing data and the regression trained on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from airflow_serving_reload.demo import housing


def predictions(model: Path, features: list[list[float]]) -> np.ndarray:
    """Answer with a saved model through Paddle's own loader, apart from the model server's."""
    x = np.array([housing.normalise(house) for house in features], dtype=np.float32)
    answers: np.ndarray = paddle.jit.load(str(model / "model"))(paddle.to_tensor(x)).numpy().ravel()
    return answers


def test_data_are_the_boston_houses() -> None:
    """The data set has the 506 tracts, the 13 features and the mean price that are published."""
    features, prices = housing.features_and_prices()

    assert (len(features), len(prices)) == (506, 506)
    assert {len(house) for house in features} == {13}
    assert sum(prices) / len(prices) == pytest.approx(22.5328, abs=1e-4)
    assert (min(prices), max(prices)) == (5.0, 50.0)


def test_sample_house_is_a_row_of_the_data() -> None:
    """The house that probes ask about is the first tract."""
    assert list(housing.SAMPLE_HOUSE) == housing.features_and_prices()[0][0]


def test_normalisation_is_that_of_paddle(tmp_path: Path) -> None:
    """Features are normalised as Paddle's own reader of this data set does it."""
    features, prices = housing.features_and_prices()
    data_file = tmp_path / "housing.data"
    rows = (" ".join(map(repr, [*house, price])) for house, price in zip(features, prices, strict=True))
    data_file.write_text("\n".join(rows))

    reference = paddle.text.UCIHousing(data_file=str(data_file), mode="train", download=False)

    assert len(reference) == int(506 * housing.TRAINING_SHARE)
    for house, price, row in zip(features, prices, reference.data, strict=False):
        assert [*housing.normalise(house), price] == pytest.approx(list(row))


def test_reported_errors_are_those_of_the_saved_model(tmp_path: Path) -> None:
    """Both mean squared errors are what the saved model makes over the rows that they are of."""
    report = housing.train(tmp_path / "model", seed=1, epochs=2)

    features, prices = housing.features_and_prices()
    squared_errors = (predictions(tmp_path / "model", features) - np.array(prices)) ** 2
    assert (report.rows, report.epochs) == (506, 2)
    assert report.train_mean_squared_error == pytest.approx(squared_errors[:404].mean(), rel=1e-4)
    assert report.test_mean_squared_error == pytest.approx(squared_errors[404:].mean(), rel=1e-4)


def test_training_learns(tmp_path: Path) -> None:
    """Thirty epochs predict unseen houses far better than one epoch does, and than the mean price would."""
    short = housing.train(tmp_path / "short", seed=1, epochs=1)
    full = housing.train(tmp_path / "full", seed=1, epochs=30)

    prices = housing.features_and_prices()[1]
    mean_price_error = float(((np.array(prices[404:]) - np.mean(prices[:404])) ** 2).mean())
    assert full.test_mean_squared_error < short.test_mean_squared_error / 2
    assert full.test_mean_squared_error < mean_price_error / 2


def test_models_can_be_told_apart(tmp_path: Path) -> None:
    """The same seed and epochs give the same price for the sample house; another seed or number another one."""

    def price(name: str, seed: int, epochs: int) -> float:
        housing.train(tmp_path / name, seed=seed, epochs=epochs)
        return float(predictions(tmp_path / name, [list(housing.SAMPLE_HOUSE)])[0])

    first = price("first", 1, 1)

    assert price("again", 1, 1) == first
    assert abs(price("other seed", 2, 1) - first) > 0.01
    assert abs(price("more epochs", 1, 2) - first) > 0.01


def test_model_folder_is_in_todays_format(tmp_path: Path) -> None:
    """A model folder holds Paddle's program and parameters and the launcher's description, nothing else."""
    housing.train(tmp_path / "model", seed=1, epochs=1)

    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"model.json", "model.pdiparams", "serving_server_conf.prototxt"}


def test_no_epochs_are_refused(tmp_path: Path) -> None:
    """Training for no epoch is an error that says what was found, and writes nothing."""
    with pytest.raises(ValueError, match="cannot train for 0 epochs"):
        housing.train(tmp_path / "model", seed=1, epochs=0)

    assert not (tmp_path / "model").exists()


def test_importing_the_module_is_light() -> None:
    """Importing the module, and reading the data, loads neither Paddle nor NumPy."""
    script = (
        "import sys; from airflow_serving_reload.demo import housing; housing.features_and_prices();"
        "sys.exit(', '.join({'paddle', 'numpy'} & set(sys.modules)) or 0)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert outcome.stderr.strip() == ""
    assert outcome.returncode == 0
