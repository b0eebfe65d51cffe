"""Detectors: windows in, scores out.

>>> import numpy as np
>>> from detectors import create
>>> X = np.random.default_rng(0).normal(size=(500, 8))
>>> detector = create("pca", seed=0).fit(X)
>>> scores = detector.score(np.vstack([X[:1], X[:1] + [9, 0, 0, 0, 0, 0, 0, -9]])).score
>>> bool(scores[1] > scores[0])
True
"""

from detectors.batch import WindowBatch, as_batch, events
from detectors.capabilities import Capabilities
from detectors.catalogue import CATALOGUE, create, detector_class, load
from detectors.detector import Budget, Detector, FitReport
from detectors.scores import Scores

__all__ = [
    "CATALOGUE",
    "Budget",
    "Capabilities",
    "Detector",
    "FitReport",
    "Scores",
    "WindowBatch",
    "as_batch",
    "create",
    "detector_class",
    "events",
    "load",
]
