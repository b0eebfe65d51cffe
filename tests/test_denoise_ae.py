"""The denoising autoencoder: noise only in training, clean targets, padding left alone."""

from typing import Any

import pytest
import torch

from detectors import Budget
from detectors.ae import Autoencoder
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.denoise_ae import DenoisingAutoencoder

SMALL: dict[str, Any] = {"code": 4, "batch": 64, "learning_rate": 5e-3}


@pytest.mark.parametrize("name", ["mixed", "series"])
def test_without_corruption_it_is_the_plain_autoencoder(name: str) -> None:
    data, budget = small(name), Budget(steps=20)
    plain = Autoencoder(seed=3).fit(data, budget=budget).score(data).score
    clean = DenoisingAutoencoder(seed=3, noise=0.0, blanked=0.0).fit(data, budget=budget)
    assert torch.equal(clean.score(data).score, plain)
    noisy = DenoisingAutoencoder(seed=3).fit(data, budget=budget)
    assert not torch.equal(noisy.score(data).score, plain)


def test_scoring_adds_no_noise() -> None:
    data = small("record")
    detector = DenoisingAutoencoder(noise=5.0).fit(data, budget=Budget(steps=5))
    assert torch.equal(detector.score(data).score, detector.score(data).score)


def test_corruption_is_as_large_as_it_says() -> None:
    detector = DenoisingAutoencoder(noise=0.3, blanked=0.25)
    detector._corruption = torch.Generator().manual_seed(0)
    rows = torch.full((500, 40), 7.0)
    shown = detector._corrupted(rows)
    blank = shown == 0
    assert float(blank.float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float((shown - rows)[~blank].std()) == pytest.approx(0.3, abs=0.01)
    assert float((shown - rows)[~blank].mean()) == pytest.approx(0.0, abs=0.01)


def test_padding_is_not_corrupted() -> None:
    data = small("series")
    detector = DenoisingAutoencoder(noise=1.0).fit(data, budget=Budget(steps=2))
    prepared = detector._prepare(data)
    seen: list[torch.Tensor] = []
    detector._net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    real = detector._real(prepared)
    detector._loss(detector._rows(prepared), real)
    assert not seen[0][~real].any()
    assert seen[0][real].ne(detector._rows(prepared)[real]).all()


def test_it_tells_a_blanked_entry_from_the_others() -> None:
    data = sample("SUBSPACE")
    gaps = []
    for blanked_share, noise in ((0.3, 0.2), (0.0, 0.0)):
        detector = DenoisingAutoencoder(**SMALL, blanked=blanked_share, noise=noise)
        detector.fit(data.train, budget=Budget(steps=400))
        rows = detector._rows(detector._prepare(data.normal))
        blanked = rows.clone()
        blanked[:, 5] = 0.0
        gaps.append(float((detector._net(blanked) - rows)[:, 5].square().mean()))
    assert gaps[0] < 0.7 * gaps[1]


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data = sample("SUBSPACE")
    detector = DenoisingAutoencoder(**SMALL).fit(data.train, budget=Budget(steps=400))
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.9
