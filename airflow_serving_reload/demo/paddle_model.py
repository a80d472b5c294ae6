"""One loaded Paddle model: found in its folder as Paddle Serving finds it, and asked for prices."""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# Those of the C++ server, and the format that Paddle writes today.
_PROGRAM_SUFFIXES = (".pdmodel", ".json", "__model__", "model")
_PARAMETER_SUFFIXES = (".pdiparams", "__params__", "params")


class PredictionError(Exception):
    """A loaded model did not give one price."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, with the evidence which one it is; nothing of it changes after the load.

    :param release: name of the folder that the model was loaded from, symlinks resolved.
    :param timestamp: mtime of the timestamp file that made the server load it, in whole seconds since the epoch.
    :param predictor: the ``paddle.inference`` predictor.
    """

    release: str
    timestamp: int
    predictor: Any = field(repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def price(self, features: Sequence[float]) -> float:
        """Predict the price of one house, in thousands of dollars; callable from any thread.

        :param features: the 13 normalised features.
        :raises PredictionError: if the model cannot take the features or gives anything but one number.
        """
        import numpy as np

        row = np.array([features], dtype=np.float32)
        try:
            with self._turn:  # the handles of a predictor are shared by all who use it
                feed = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
                feed.copy_from_cpu(row)
                self.predictor.run()
                fetch = self.predictor.get_output_handle(self.predictor.get_output_names()[0])
                answer = fetch.copy_to_cpu().ravel()
        except Exception as error:  # paddle raises whatever type its C++ error maps to
            raise PredictionError(
                f"release {self.release} cannot predict from {len(features)} features: {summary(error)}"
            ) from error
        if len(answer) != 1:
            raise PredictionError(f"release {self.release} answered with {len(answer)} numbers, not with 1")
        return float(answer[0])


def load(model_dir: str, timestamp: int) -> LoadedModel:
    """Load the model that ``model_dir`` leads to now.

    A symlink is followed once, so that all files and the name of the release are those of one folder even if the
    symlink is renamed over meanwhile.

    :param model_dir: the model folder or a symlink to it.
    :param timestamp: the mtime that caused the load, in whole seconds since the epoch.
    :raises Exception: of any type, as Paddle raises it, if the folder does not hold a model.
    """
    inference = _paddle_inference()
    folder = os.path.realpath(model_dir, strict=True)
    program = _first_with_suffix(folder, _PROGRAM_SUFFIXES)
    parameters = _first_with_suffix(folder, _PARAMETER_SUFFIXES)
    # without either it is the old form: `__model__` and a file per parameter
    configuration = inference.Config(*((program, parameters) if program and parameters else (folder,)))
    configuration.disable_glog_info()
    configuration.set_cpu_math_library_num_threads(1)
    predictor = inference.create_predictor(configuration)
    return LoadedModel(Path(folder).name, timestamp, predictor)


def summary(error: Exception) -> str:
    """Return what an error of Paddle says, on one line and without its C++ stack."""
    text = str(error).rpartition("Error Message Summary:")[2]
    return " ".join(text.strip("-\n").split()) or type(error).__name__


def _first_with_suffix(folder: str, suffixes: tuple[str, ...]) -> str | None:
    """Return the first regular file with one of the suffixes, in the order in which the file system lists them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and entry.name.endswith(suffixes):
                return entry.path
    return None


@cache
def _paddle_inference() -> ModuleType:
    """Import Paddle, which takes seconds, without its advice to developers and its signal handlers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No ccache found")
        import paddle
    paddle.disable_signal_handler()
    return paddle.inference
