"""Detectors of pyod that Eddy's are measured beside."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

Options = Callable[[int, int], dict[str, Any]]


class Peer(NamedTuple):
    """A detector of pyod: module, class, what it is made with, what it needs, its twin here.

    ``make`` takes a seed and the number of columns; ``brief`` are the settings with which it hardly
    trains, for who only times how it scores, and ``equal`` those with which the twin takes as many
    steps to score, or projections, or has a network of the same widths. ``scaled`` are those who
    get rows by way of a ``StandardScaler``, since they do not scale by themselves and need it.
    """

    module: str
    name: str
    twin: str = ""
    make: Options = lambda seed, columns: {}
    brief: Mapping[str, Any] = MappingProxyType({})
    equal: Mapping[str, Any] = MappingProxyType({})
    labels: bool = False
    scaled: bool = False

    def create(self, seed: int, columns: int, *, brief: bool = False) -> Any:
        """Make one that is not fitted.

        Raises
        ------
        DataError
            If pyod, or what it needs for this one, is not installed.
        """
        try:
            found = getattr(importlib.import_module(f"pyod.models.{self.module}"), self.name)
        except ModuleNotFoundError as error:
            msg = f"pyod:{self.module}: {error.name} is not installed; pip install 'eddy[bench]'"
            raise DataError(msg) from error
        np.random.seed(seed)
        return found(**self.make(seed, columns), **(self.brief if brief else {}))


def fit(detector: Any, rows: NDArray[Any], labels: NDArray[Any] | None = None) -> None:
    """Fit a peer, and let it print nothing."""
    with _silence():
        detector.fit(rows, labels)


def scores(detector: Any, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Score rows with a fitted peer, and let it print nothing; infinite scores become finite."""
    with _silence():
        found = np.asarray(detector.decision_function(rows), dtype=float).ravel()
    finite: NDArray[np.float64] = np.nan_to_num(found)
    return finite


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


def _svdd(seed: int, columns: int) -> dict[str, Any]:
    # batches of 32, its default, take longer for 100 epochs than the time that all others have
    return {"n_features": columns, "random_state": seed, "verbose": 0, "batch_size": 128}


PYOD = {
    "pyod:iforest": Peer("iforest", "IForest", "iforest", lambda seed, _: {"random_state": seed}),
    "pyod:ecod": Peer("ecod", "ECOD", "ecod"),
    "pyod:knn": Peer("knn", "KNN", "knn"),
    "pyod:lof": Peer("lof", "LOF"),
    "pyod:pca": Peer("pca", "PCA", "pca"),
    "pyod:deep_svdd": Peer(
        *("deep_svdd", "DeepSVDD", "svdd", _svdd, {"epochs": 1}), equal={"hidden": 32}
    ),
    "pyod:devnet": Peer(
        *("devnet", "DevNet", "devnet", lambda seed, _: {"random_seed": seed}, {"epochs": 1}),
        labels=True,
    ),
}
"""Those whose accuracy is measured."""

_MO_GAAL = Peer("mo_gaal", "MO_GAAL", "mogaal", brief={"stop_epochs": 1}, equal={"hidden": 46})
TWINS = [
    *(peer for peer in PYOD.values() if peer.twin),
    Peer("loda", "LODA", "loda", equal={"projections": 100}),
    Peer("auto_encoder", "AutoEncoder", "ae", brief={"epoch_num": 1, "verbose": 0}),
    Peer("vae", "VAE", "vae", brief={"epoch_num": 1, "verbose": 0}),
    Peer("alad", "ALAD", "alad", brief={"epochs": 1}),
    Peer(
        *("anogan", "AnoGAN", "anogan"),
        brief={"epochs": 1},
        equal={"search": 20, "restarts": 1},
    ),
    Peer("ae1svm", "AE1SVM", "ae1svm", brief={"epochs": 1}),
    _MO_GAAL,
    _MO_GAAL._replace(scaled=True),
]
"""Those whose method is here as well: how fast they score is compared."""
