"""The plain autoencoder, and what all dense autoencoders share."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from detectors import Budget, WindowBatch
from detectors.ae import Autoencoder
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.error_scale import ErrorScale
from detectors.nets.autoencoder import TiedAutoencoder, code_width


@cache
def learned() -> Autoencoder:
    """A detector of SUBSPACE that others may read and not change."""
    detector = Autoencoder(code=3, batch=64, learning_rate=5e-3)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=400))


def test_points_off_the_subspace_score_above_normal_ones() -> None:
    data, detector = sample("SUBSPACE"), learned()
    normal, anomalous = detector.score(data.normal).score, detector.score(data.anomalous).score
    assert ranking(normal, anomalous) > 0.95
    assert float(normal.mean()) == pytest.approx(1.0, abs=0.5)  # in units of usual errors


def test_training_lowers_the_loss() -> None:
    losses = learned().report.losses
    assert losses[-1] < 0.5 * losses[0]


def test_the_identity_sees_nothing() -> None:
    data = sample("SUBSPACE")
    detector = Autoencoder(hidden=(), code=16, whiten=False).fit(data.train, budget=Budget(steps=1))
    with torch.no_grad():
        for half in (detector._net.encoder, detector._net.decoder):
            assert isinstance(half, nn.Sequential)
            half[0].weight.copy_(torch.eye(16))  # type: ignore[operator]
            half[0].bias.zero_()  # type: ignore[operator]
    for windows in (data.normal, data.anomalous):
        assert float(detector.score(windows).score.max()) < 1e-9


def test_the_plain_score_is_the_mean_squared_error_of_real_entries() -> None:
    data = small("series", seed=2)
    detector = Autoencoder(whiten=False).fit(small("series"), budget=Budget(steps=5))
    found = detector.score(data, explain="full")
    assert found.expected is not None
    scaled = detector._prepare(data).num
    copies = (found.expected - detector._scaler.center) / detector._scaler.scale
    squares = ((scaled - copies).square() * data.mask.unsqueeze(2)).sum(dim=(1, 2))
    torch.testing.assert_close(found.score, squares / (4 * data.lengths), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mixed", "sequence"])
def test_shares_of_fields_add_up_to_the_score(name: str) -> None:
    detector = Autoencoder().fit(small(name), budget=Budget(steps=5))
    found = detector.score(small(name, seed=2), explain="full")
    assert found.feature is not None
    torch.testing.assert_close(found.feature.sum(dim=(1, 2)), found.score)


def noisy(data: WindowBatch) -> WindowBatch:
    """Replace the last number by noise that nothing explains."""
    noise = torch.randn(len(data), generator=torch.Generator().manual_seed(len(data)))
    num = data.num.clone()
    num[:, 0, -1] = 3 * noise
    return replace(data, num=num)


def test_a_field_of_noise_does_not_drown_the_others() -> None:
    data = sample("SUBSPACE")
    shares = []
    for whiten in (True, False):
        detector = Autoencoder(code=3, batch=64, learning_rate=5e-3, whiten=whiten)
        detector.fit(noisy(data.train), budget=Budget(steps=300))
        found = detector.score(noisy(data.normal), explain="full").feature
        assert found is not None
        total = found.mean(dim=(0, 1))
        shares.append(float(total[-1] / total.sum()))
    assert shares[0] < 0.12 < 0.3 < shares[1]


@pytest.mark.parametrize("name", ["mixed", "sequence"])
def test_a_new_value_scores_higher_than_any_known_one(name: str) -> None:
    train, data = small(name, windows=300), small(name, seed=2)
    detector = Autoencoder(batch=32).fit(train, budget=Budget(steps=100))
    unseen = data.cat.clone()
    unseen[:, 0, 0] = 1
    known = detector.score(data).score
    assert (detector.score(replace(data, cat=unseen)).score > known).all()


def test_updates_blend_the_usual_errors() -> None:
    first, second = ErrorScale.fit(torch.full((30, 2), 1.0)), ErrorScale.fit(torch.full((10, 2), 5))
    blend = first.updated(second)
    torch.testing.assert_close(blend.usual, torch.full((2,), 2.0))
    assert float(blend.count) == 40
    assert first.updated(ErrorScale.fit(torch.zeros(0, 2))) is first


def test_the_worst_steps_do_not_count_as_usual() -> None:
    errors = torch.ones(100, 2)
    errors[7] = 1000.0
    assert ErrorScale.fit(errors, trim=0.01).usual.tolist() == [1.0, 1.0]


def test_a_code_is_narrower_than_its_input() -> None:
    assert [code_width(columns) for columns in (1, 2, 3, 16, 64)] == [1, 1, 2, 2, 8]


def test_tied_weights_are_read_in_both_directions() -> None:
    torch.manual_seed(0)
    net, rows = TiedAutoencoder(5, 7, lambda h: h), torch.randn(4, 5)
    torch.testing.assert_close(net(rows), rows @ net.weight.T @ net.weight)
