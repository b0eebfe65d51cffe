"""Every detector of the catalogue against every check that its capabilities call for."""

import pytest

from detectors import CATALOGUE, detector_class
from detectors.checks import Check, checks_for


def _parameters() -> list[object]:
    return [
        pytest.param(check, id=f"{name}:{check.name}")
        for name in CATALOGUE
        for check in checks_for(detector_class(name))
    ]


@pytest.mark.parametrize("check", _parameters())
def test_detector(check: Check) -> None:
    if check.waived:
        pytest.skip(f"waived: {check.waived}")
    check.run()
