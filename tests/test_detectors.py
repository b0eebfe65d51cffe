"""Every detector of the catalogue against every check that its capabilities call for."""

from typing import Any

import pytest

from detectors import CATALOGUE, Budget, detector_class
from detectors.checks import Check, checks_for
from detectors.checks.subject import Subject, require_close, small, tensors

# Default settings are made for 100,000 windows; on 2,000 easy ones less work learns enough.
TRAINING: dict[str, tuple[Budget, dict[str, Any]]] = {
    "ae": (Budget(steps=400), {"code": 4, "batch": 64, "learning_rate": 5e-3}),
    "cauchy": (Budget(steps=100), {}),
    "cnn_ae": (Budget(steps=400), {"batch": 64, "learning_rate": 3e-3}),
    "contract_ae": (Budget(steps=400), {"batch": 64, "learning_rate": 5e-3}),
    "dagmm": (
        Budget(steps=800),
        {"code": 3, "components": 3, "learning_rate": 1e-3, "batch": 256},
    ),
    "denoise_ae": (Budget(steps=400), {"code": 4, "batch": 64, "learning_rate": 5e-3}),
    "devnet": (Budget(steps=100), {}),
    "ffp": (Budget(steps=100), {}),
    "lstm_ae": (Budget(steps=400), {"hidden": 32, "learning_rate": 1e-2, "batch": 64}),
    "prenet": (Budget(steps=200), {}),
    "rda": (Budget(steps=500), {"code": 4, "batch": 64, "learning_rate": 1e-2}),
    "replicator": (Budget(steps=500), {"batch": 64, "learning_rate": 1e-2}),
    "sad": (Budget(steps=400), {"hidden": 32, "code": 16, "batch": 64}),
    "sparse_ae": (Budget(steps=400), {"batch": 64, "learning_rate": 5e-3}),
    "svdd": (Budget(steps=400), {"hidden": 32, "code": 16, "batch": 64}),
    "vae": (Budget(steps=500), {"batch": 64, "learning_rate": 5e-3}),
}


def _parameters() -> list[object]:
    found: list[object] = []
    for name in CATALOGUE:
        cls = detector_class(name)
        assert cls.caps.name == name
        budget, settings = TRAINING.get(name, (None, {}))
        checks = checks_for(cls, budget=budget, **settings)
        unknown = (
            cls.caps.waived.keys()
            - {c.name for c in checks}
            - {c.name.partition("[")[0] for c in checks}
        )
        assert not unknown, f"{name} waives checks that it does not have: {unknown}"
        # one worker for all checks of a detector, which share its trainings
        group = pytest.mark.xdist_group(name)
        found += [pytest.param(c, id=f"{name}:{c.name}", marks=group) for c in checks]
    return found


@pytest.mark.parametrize("check", _parameters())
def test_detector(check: Check) -> None:
    if check.waived:
        pytest.skip(f"waived: {check.waived}")
    check.run()


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_size_of_chunks_changes_no_score(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(detector_class(name))
    for data in subject.inputs():
        detector, windows = subject.quick(data), small(data, seed=2)
        whole = tensors(detector.score(windows, explain="full"))
        with monkeypatch.context() as patch:
            patch.setattr(type(detector), "chunk", 7)
            cut = tensors(detector.score(windows, explain="full"))
        for part, found in cut.items():
            require_close(found, whole[part], part)
