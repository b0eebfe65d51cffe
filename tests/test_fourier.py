"""Random Fourier features: products that approximate a kernel, one kernel beside the other."""

from __future__ import annotations

import pytest
import torch

from detectors.loops.fourier import FourierFeatures


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_fourier_features_approximate_the_kernel_the_better_the_more_there_are(
    width: float,
) -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    sigma = width * float(torch.pdist(rows).median())
    kernel = (-torch.cdist(rows, rows).square() / (2 * sigma**2)).exp()
    errors = []
    for count in (50, 5000):
        torch.manual_seed(0)
        found = FourierFeatures.fit(rows, count, width)(rows)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(60))
        errors.append(float((found @ found.T - kernel).square().mean().sqrt()))
    assert errors[0] < 0.2
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.5)  # the root of a hundred


def test_kernels_side_by_side_are_those_of_each_by_itself() -> None:
    rows = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    rows[:, 1] *= 9
    torch.manual_seed(0)
    both = FourierFeatures.fit(rows, 20, 0.5)
    for i in (0, 1):
        one = FourierFeatures(both.frequencies[i])
        torch.testing.assert_close(both(rows)[:, i], one(rows[:, i]))
    spread = both.frequencies.std(dim=(1, 2)) * torch.pdist(rows[:, 0]).median()
    assert float(spread[0] / spread[1]) == pytest.approx(9, rel=0.5)


def test_rows_that_are_all_alike_have_features() -> None:
    for rows in (torch.ones(1, 3), torch.ones(5, 3)):
        assert FourierFeatures.fit(rows, 8, 0.5)(rows).isfinite().all()
