"""Event likelihood: the loss by its formula, noise by its frequencies, order by likelihood."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from detectors import Budget, create
from detectors.batch import NEW, PAD, WindowBatch, events
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.event_likelihood import EventLikelihood
from detectors.loops.likelihood import Contrast, Unigrams, contrastive_loss, show_new_rows
from detectors.nets.embedding import NEW_SHARE
from detectors.nets.interaction import PairInteraction, ValueTable, count_values
from schemas.errors import DataError


@cache
def learned(name: str) -> EventLikelihood:
    """A detector that others may read and not change."""
    detector = create(name).fit(sample("PATHS").train)
    assert isinstance(detector, EventLikelihood)
    return detector


def correlation(one: Tensor, other: Tensor) -> float:
    """Of the ranks."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def log_likelihood(data: WindowBatch) -> Tensor:
    """True log-likelihood, up to a constant, of events inside one community of PATHS."""
    rank = (data.cat[:, 0] - 2) % 20 + 1
    return -rank.double().log().sum(dim=1)


both = pytest.mark.parametrize("name", ["nce", "ape"])


@both
def test_mixed_communities_score_above_true_events(name: str) -> None:
    data, detector = sample("PATHS"), learned(name)
    scores = detector.score(data.normal).score
    assert ranking(scores, detector.score(data.anomalous).score) > 0.98


@both
def test_among_valid_events_scores_fall_as_the_likelihood_rises(name: str) -> None:
    data = sample("PATHS").normal
    assert correlation(-learned(name).score(data).score, log_likelihood(data)) > 0.5


def test_without_the_frequency_of_noise_scores_do_not_follow_the_likelihood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imitate = Unigrams.imitate

    def flat(self: Unigrams, observed: Tensor, k: int, generator: torch.Generator) -> Contrast:
        made = imitate(self, observed, k, generator)
        return made._replace(
            log_q=torch.zeros_like(made.log_q), log_q_noise=torch.zeros_like(made.log_q_noise)
        )

    monkeypatch.setattr(Unigrams, "imitate", flat)
    data = sample("PATHS")
    detector = create("nce").fit(data.train)
    assert correlation(-detector.score(data.normal).score, log_likelihood(data.normal)) < 0.4


def test_the_loss_equals_the_explicit_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    tau, tau_noise = torch.randn(6, generator=generator), torch.randn(6, 4, generator=generator)
    q, q_noise = torch.rand(6, generator=generator), torch.rand(6, 4, generator=generator)
    rows = torch.zeros(6, 2, dtype=torch.int64)
    contrast = Contrast(rows, rows.unsqueeze(1).repeat(1, 4, 1), q.log(), q_noise.log())
    true = tau.exp() / (tau.exp() + 4 * q)
    noise = 4 * q_noise / (tau_noise.exp() + 4 * q_noise)
    expected = -true.log() - noise.log().sum(dim=1)
    torch.testing.assert_close(contrastive_loss(tau, tau_noise, contrast), expected)


def test_imitations_lie_in_one_field_by_the_frequency_of_its_values() -> None:
    vocab = (6, 9)
    counts = torch.tensor([0, 0, 30, 60, 10, 0, 0, 0, 5, 5, 0, 0, 0, 0, 90]).double()
    table = ValueTable(vocab, counts)
    unigrams = Unigrams.fit(counts, table.start)
    observed = table.rows(torch.tensor([[3, 8]])).repeat(4000, 1)
    made = unigrams.imitate(observed, 5, torch.Generator().manual_seed(0))
    changed = made.noise != observed.unsqueeze(1)
    assert not changed.all(dim=2).any()
    for field, (start, size) in enumerate(zip([0, 6], vocab, strict=True)):
        own = (made.log_q == unigrams.log_q[observed[:, field]]).nonzero().squeeze(1)
        assert 1800 < len(own) < 2200  # fields are drawn alike
        drawn = torch.bincount(made.noise[own, :, field].flatten() - start, minlength=size)
        share = counts[start : start + size] / 100 * (1 - NEW_SHARE)
        share[NEW] = NEW_SHARE
        assert drawn[PAD] == 0
        torch.testing.assert_close(drawn / drawn.sum(), share.float(), atol=0.02, rtol=0.0)
        found = made.log_q_noise[own]
        torch.testing.assert_close(found, unigrams.log_q[made.noise[own, :, field]])


def test_a_share_of_the_values_is_shown_as_new() -> None:
    table = ValueTable((5, 5), torch.ones(10))
    rows = table.rows(torch.full((20_000, 2), 3))
    shown = show_new_rows(rows, table.start, torch.Generator().manual_seed(0))
    assert float(table.is_new(shown).float().mean()) == pytest.approx(NEW_SHARE, rel=0.2)
    assert (shown[~table.is_new(shown)] == rows[~table.is_new(shown)]).all()


@both
@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_new_value_scores_above_a_known_one_in_the_same_place(name: str, field: int) -> None:
    data, detector = sample("PATHS").normal, learned(name)
    cat = data.cat.clone()
    cat[:, :, field] = NEW
    new = detector.score(replace(data, cat=cat)).score
    above = new > detector.score(data).score
    assert float(above.float().mean()) > 0.97
    assert float(new.median()) > float(detector.score(data).score.quantile(0.95))


def test_ids_without_an_example_count_as_new_until_an_update_shows_them() -> None:
    data = small("catrec", windows=300)
    odd = data.cat[:, 0, 0] == 5
    detector = create("nce").fit(data[~odd], budget=Budget(steps=20))
    assert isinstance(detector, EventLikelihood)
    new = replace(data, cat=torch.where(data.cat == 5, NEW, data.cat))
    new.cat[:, :, 1] = data.cat[:, :, 1]
    torch.testing.assert_close(detector.score(data[odd]).score, detector.score(new[odd]).score)
    detector.partial_fit(data[odd])
    assert (detector.score(data[odd]).score < detector.score(new[odd]).score).all()


@pytest.mark.parametrize("name", ["nce", "ape", "netwalk"])
def test_values_that_only_the_latest_events_have_count_as_new_until_training_shows_them(
    name: str,
) -> None:
    data = small("catrec", windows=400)
    kept = data[data.cat[:, 0, 0] != 5]
    cat = kept.cat.clone()
    cat[-5:, :, 0] = 5  # of about 350 events, the latest 35 are held out
    late = replace(kept, cat=cat)
    detector = create(name, batch=64).fit(late, budget=Budget(steps=20))
    known, named, new = (replace(kept, cat=kept.cat.clone()) for _ in range(3))
    named.cat[:, :, 0], new.cat[:, :, 0] = 5, NEW
    score = detector.score(named).score
    torch.testing.assert_close(score, detector.score(new).score)
    assert float((score > detector.score(known).score).float().mean()) > 0.9
    detector.partial_fit(named)
    assert (detector.score(named).score < detector.score(new).score).all()


def test_pair_terms_add_up_and_halves_go_to_both_fields() -> None:
    torch.manual_seed(0)
    net = PairInteraction(12, 4, 3, positive=False)
    rows = torch.tensor([[0, 3, 6, 9], [2, 5, 8, 11]])
    z, by_hand = net.embedding(rows), torch.zeros(2)
    for at, (i, j) in enumerate(net.pairs.T.tolist()):
        assert i < j
        by_hand = by_hand + net.weight[at] * (z[:, i] * z[:, j]).sum(dim=1)
    torch.testing.assert_close(net(rows), by_hand + net.constant)
    shares = net.by_node(torch.tensor([1.0, 0, 0, 0, 0, 2.0]))  # pairs 0-1 and 2-3
    assert shares.tolist() == [0.5, 0.5, 1.0, 1.0]


def test_counts_of_fields_lie_behind_each_other() -> None:
    cat = torch.tensor([[2, 3], [2, 1]])
    assert count_values(cat, (3, 4)).tolist() == [0, 0, 2, 0, 1, 0, 1]


def test_frequencies_forget_beyond_the_horizon() -> None:
    data = small("catrec", windows=200)
    detector = create("nce", horizon=100).fit(data, budget=Budget(steps=1))
    assert isinstance(detector, EventLikelihood)
    detector.partial_fit(data[:50], budget=Budget(steps=1))
    # training sees 45 of the latest 50 events
    assert float(detector._counts.sum()) == pytest.approx(2 * 145)


def test_a_single_field_is_refused() -> None:
    with pytest.raises(DataError, match=r"nce: .* needs at least 2, got 1"):
        create("nce").fit(events([[2, 3], [3, 2]], vocab=4))
