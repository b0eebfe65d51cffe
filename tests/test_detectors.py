"""Every detector of the catalogue against every check that its capabilities call for."""

from typing import Any

import pytest

from detectors import CATALOGUE, Budget, detector_class
from detectors.checks import Check, checks_for
from detectors.checks.subject import Subject, require_close, small, tensors

# Default settings are made for 100,000 windows; on 2,000 easy ones less work learns enough.
TRAINING: dict[str, tuple[Budget, dict[str, Any]]] = {
    "ae": (Budget(steps=400), {"code": 4, "batch": 64, "learning_rate": 5e-3}),
    "ae1svm": (Budget(steps=200), {"frequencies": 64, "batch": 64, "learning_rate": 5e-3}),
    "ae_ocsvm": (
        Budget(steps=200),
        {"hidden": (64,), "frequencies": 64, "batch": 64, "learning_rate": 5e-3},
    ),
    "aehe": (Budget(steps=150), {"batch": 256}),
    "alad": (Budget(steps=150), {"code": 8, "batch": 64, "learning_rate": 2e-3}),
    "alocc": (Budget(steps=200), {"code": 4, "batch": 64, "learning_rate": 2e-3}),
    "anogan": (
        Budget(steps=500),
        {"code": 4, "batch": 64, "learning_rate": 2e-3, "search": 20, "search_rate": 0.2},
    ),
    "cauchy": (Budget(steps=100), {}),
    "cnn_ae": (Budget(steps=400), {"batch": 64, "learning_rate": 3e-3}),
    "contract_ae": (Budget(steps=400), {"batch": 64, "learning_rate": 5e-3}),
    "convlstm_ae": (Budget(steps=150), {"learning_rate": 1e-2}),
    "dagmm": (
        Budget(steps=1200),
        {"code": 3, "components": 3, "learning_rate": 1e-3, "batch": 256},
    ),
    "deep_cluster": (Budget(steps=300), {"batch": 64}),
    "deepoc": (Budget(steps=80), {"batch": 64, "learning_rate": 3e-3}),
    "denoise_ae": (Budget(steps=400), {"code": 4, "batch": 64, "learning_rate": 5e-3}),
    "devnet": (Budget(steps=100), {}),
    "e3outlier": (Budget(steps=100), {"hidden": 16, "batch": 32}),
    "ebgan": (Budget(steps=200), {"code": 8, "batch": 64, "learning_rate": 2e-3}),
    "fanogan": (
        Budget(steps=300),
        {"code": 4, "batch": 64, "learning_rate": 2e-3, "encoder_rate": 2e-3},
    ),
    "fencegan": (Budget(steps=400), {"attempts": 1, "batch": 64, "learning_rate": 3e-3}),
    "ffp": (Budget(steps=100), {}),
    "ganomaly": (Budget(steps=200), {"batch": 64, "learning_rate": 2e-3}),
    "gcn_ae": (Budget(steps=200), {"hidden": 32}),
    "gmvae": (Budget(steps=400), {"components": 3, "learning_rate": 5e-3, "batch": 64}),
    "gt": (Budget(steps=60), {"hidden": 16, "batch": 32}),
    "icl": (Budget(steps=200), {"orders": 2, "batch": 64, "learning_rate": 5e-3}),
    "lsa": (Budget(steps=300), {"code": 4, "batch": 64, "learning_rate": 5e-3}),
    "lstm_ae": (Budget(steps=400), {"hidden": 32, "learning_rate": 1e-2, "batch": 64}),
    "memstream": (Budget(steps=200), {"batch": 64, "learning_rate": 5e-3}),
    "mil": (Budget(steps=400), {"learning_rate": 3e-3}),
    "mogaal": (Budget(steps=600), {"batch": 64}),
    "netwalk": (Budget(steps=300), {}),
    "oada": (Budget(steps=400), {"batch": 64, "learning_rate": 5e-3}),
    "ocan": (Budget(steps=800), {"batch": 64, "learning_rate": 3e-3}),
    "ocgan": (Budget(steps=300), {"code": 3, "batch": 64}),
    "prenet": (Budget(steps=200), {}),
    "pup": (Budget(steps=200), {"context": 3, "segment": 5, "learning_rate": 5e-3}),
    "rae_ens": (Budget(steps=60), {"members": 5, "learning_rate": 1e-2}),
    "randnet": (Budget(steps=300), {"members": 16, "learning_rate": 1e-2, "batch": 128}),
    "rda": (Budget(steps=500), {"code": 4, "batch": 64, "learning_rate": 1e-2}),
    "rdp": (Budget(steps=200), {"trees": 4, "learning_rate": 1e-2}),
    "repen": (Budget(steps=150), {}),
    "replicator": (Budget(steps=500), {"batch": 64, "learning_rate": 1e-2}),
    "sad": (Budget(steps=400), {"hidden": 32, "code": 16, "batch": 64}),
    "sdor": (Budget(steps=800), {"epochs": 4}),
    "sparse_ae": (Budget(steps=400), {"batch": 64, "learning_rate": 5e-3}),
    "svdd": (Budget(steps=800), {"hidden": 32, "code": 16, "batch": 64}),
    "transfer": (Budget(steps=100), {"hidden": 32, "learning_rate": 3e-3}),
    "uoda": (Budget(steps=200), {"learning_rate": 1e-2}),
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
