"""AnoGAN: a search that only moves noise, only gets better, and finds what the maker can make."""

from functools import cache
from typing import Any

import torch

from detectors import Budget
from detectors.anogan import AnoGan
from detectors.checks.sources import sample

SMALL: dict[str, Any] = {"code": 4, "batch": 64, "learning_rate": 2e-3}


@cache
def learned(search: int = 30) -> AnoGan:
    """A detector of SUBSPACE that others may read and not change."""
    detector = AnoGan(search=search, **SMALL)
    return detector.fit(sample("SUBSPACE").train[:600], budget=Budget(steps=100))


def test_a_search_changes_noise_and_nothing_else() -> None:
    detector = learned()
    before = detector.to_files()
    detector.score(sample("SUBSPACE").normal[:20], explain="full")
    assert detector.to_files() == before
    assert not any(p.requires_grad or p.grad is not None for p in detector._net.parameters())


def test_longer_searches_find_no_worse() -> None:
    data = sample("SUBSPACE").normal[:50]
    found = [learned(search).score(data).score for search in (1, 5, 30)]
    assert (found[0] >= found[1]).all()
    assert (found[1] >= found[2]).all()
    assert (found[0] > found[2]).double().mean() > 0.9


def test_what_the_maker_makes_scores_below_what_it_cannot() -> None:
    detector = learned()
    noise = torch.randn(60, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    made = detector._net.generator(noise).float()
    odd = made[:, torch.randperm(16, generator=torch.Generator().manual_seed(4))]
    real = torch.ones_like(made)
    near, far = (detector._examine(r, real, explain=False).score for r in (made, odd))
    assert (near < far).double().mean() > 0.95


def test_every_window_is_searched_for_from_the_same_starts() -> None:
    detector = AnoGan(restarts=3, **SMALL)
    detector.fit(sample("SUBSPACE").train[:100], budget=Budget(steps=2))
    assert detector._starts.shape == (3, 4)
    row = torch.zeros(1, 16)
    scores = detector._examine(row.repeat(5, 1), torch.ones(5, 16), explain=False).score
    assert (scores == scores[0]).all()
