"""Fits draw from their seed, whatever was drawn before, and leave the global generators alone."""

import pytest
import torch

from detectors import create
from detectors.checks.subject import small
from detectors.seeding import drawing_from
from schemas.errors import DetectorError


@pytest.mark.parametrize("fails", [False, True])
def test_draws_follow_the_seed_and_the_global_generator_goes_on_as_before(fails: bool) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    try:
        with drawing_from(7, "cpu"):
            drawn = torch.rand(4)
            if fails:
                raise DetectorError("no")
    except DetectorError:
        pass
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(4), drawn)


def test_a_fit_on_the_cpu_does_not_touch_the_generators_of_other_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    create("iforest").fit(small("record"))
    detector = create("loda").fit(small("record"))
    detector.partial_fit(small("record"))
    assert seeded == []
    torch.manual_seed(0)
    assert seeded == [0]
