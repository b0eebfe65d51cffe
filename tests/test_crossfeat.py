"""Cross-feature models: nothing of a hidden field leaks, and broken dependencies are found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detectors import Budget
from detectors.batch import NEW, WindowBatch
from detectors.checks.subject import join, small
from detectors.crossfeat import CrossFeature, hide_some
from detectors.nets.conditional import MaskedFieldNet


def flows(seed: int, n: int = 2000) -> WindowBatch:
    """Flows whose protocol follows from the port; a user and two numbers have nothing to do."""
    generator = torch.Generator().manual_seed(seed)
    port = torch.randint(2, 10, (n,), generator=generator)
    user = torch.randint(2, 7, (n,), generator=generator)
    cat = torch.stack([2 + port % 3, port, user], dim=1).unsqueeze(1)
    num = torch.randn(n, 1, 2, generator=generator)
    return WindowBatch(num, cat, torch.ones(n, 1, dtype=torch.bool), (5, 10, 7))


def broken(data: WindowBatch) -> WindowBatch:
    """Protocols that do not belong to their ports."""
    cat = data.cat.clone()
    cat[:, :, 0] = 2 + (cat[:, :, 0] - 1) % 3
    return replace(data, cat=cat)


@pytest.fixture(scope="module")
def learned() -> CrossFeature:
    return CrossFeature().fit(flows(0), budget=Budget(steps=300))


def test_breaking_a_dependency_surprises_in_just_its_two_fields(learned: CrossFeature) -> None:
    data = flows(1, 300)
    odd = learned.score(broken(data), explain="full")
    assert odd.feature is not None
    top = odd.feature[:, 0].topk(2, dim=1).indices.sort(dim=1).values
    assert float((top == torch.tensor([2, 3])).all(dim=1).float().mean()) > 0.95
    assert float(odd.score.quantile(0.05)) > float(learned.score(data).score.quantile(0.95))


def test_fields_that_cannot_be_said_do_not_drown_the_others(learned: CrossFeature) -> None:
    """What a user costs is usual; without that, its surprisal outweighs those of the ports."""
    data = learned._prepare(flows(1, 1000))
    surprisal = learned._surprisal(data)[1].mean(dim=(0, 1))
    assert float(surprisal[4]) > 1.0
    assert float(surprisal[3]) < float(surprisal[4])
    torch.testing.assert_close(surprisal - learned._usual, torch.zeros(5), atol=0.2, rtol=0.0)
    assert abs(float(learned.score(flows(1, 1000)).score.mean())) < 0.3


@pytest.mark.parametrize("field", range(5))
def test_a_hidden_field_is_said_from_the_others_alone(field: int) -> None:
    torch.manual_seed(0)
    net, data = MaskedFieldNet(3, (9, 90), (8, 8)), small("mixed")
    num, cat = data.num.clone(), data.cat.clone()
    if field < 3:
        num[:, :, field] += 5.0
    else:
        cat[:, :, field - 3] = 2
    before, after = net.one_by_one(data), net.one_by_one(replace(data, num=num, cat=cat))
    others = [i for i in range(5) if i != field]
    assert not torch.allclose(before.surprisal[..., others], after.surprisal[..., others])
    if field < 3:
        torch.testing.assert_close(before.mean[..., field], after.mean[..., field])
    else:
        same = data.cat[:, :, field - 3] == 2
        kept = before.surprisal[same][:, field]
        torch.testing.assert_close(after.surprisal[same][:, field], kept)


def test_hiding_one_by_one_equals_hiding_each_alone() -> None:
    torch.manual_seed(0)
    net, data = MaskedFieldNet(3, (9, 90), (8, 8)), small("mixed")
    found = net.one_by_one(data).surprisal
    for field in range(5):
        hide = torch.zeros_like(found, dtype=torch.bool)
        hide[..., field] = True
        torch.testing.assert_close(found[..., field], net.together(data, hide)[..., field])


def test_densities_by_hand() -> None:
    torch.manual_seed(0)
    net, data = MaskedFieldNet(3, (9, 90), (8, 8)), small("mixed")
    hide = torch.ones(len(data), 1, 5, dtype=torch.bool)
    inputs = torch.zeros(1, len(net.owner) + 5)  # nothing is shown
    means, log_variances, *logits = net.head(net.body(inputs))[0].split(net.widths)
    found = net.together(data, hide)[:, 0]
    gauss = torch.distributions.Normal(means, (0.5 * log_variances).exp())
    expected = -gauss.log_prob(data.num[:, 0])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found[:, :3], expected)
    for field, logit in enumerate(logits):
        chance = logit.softmax(dim=0)[data.cat[:, 0, field]]
        torch.testing.assert_close(found[:, 3 + field], -chance.log())


def test_training_hides_a_share_of_the_fields_and_at_least_one() -> None:
    hide = hide_some(flows(0), 0.3, torch.Generator().manual_seed(0)).hide
    assert hide.any(dim=-1).all()
    # 0.3, and one of five where none is hidden by chance
    assert float(hide.float().mean()) == pytest.approx(0.3 + 0.7**5 / 5, abs=0.02)


def test_a_new_value_scores_above_any_known_one(learned: CrossFeature) -> None:
    data = flows(1, 300)
    cat = data.cat.clone()
    cat[:, :, 2] = NEW
    scores = learned.score(replace(data, cat=cat)).score
    assert (scores > learned.score(data).score).float().mean() > 0.99


def test_a_window_scores_the_mean_of_its_steps(learned: CrossFeature) -> None:
    data = join([flows(1, 10), broken(flows(2, 10))])
    single = learned.score(data).score
    pairs = WindowBatch(
        data.num.view(2, 10, 2).transpose(0, 1).contiguous(),
        data.cat.view(2, 10, 3).transpose(0, 1).contiguous(),
        torch.ones(10, 2, dtype=torch.bool),
        data.vocab,
    )
    mean = single.view(2, 10).mean(dim=0)
    torch.testing.assert_close(learned.score(pairs).score, mean, atol=1e-4, rtol=1e-4)


def test_an_update_blends_what_is_usual() -> None:
    detector = CrossFeature().fit(flows(0, 500), budget=Budget(steps=20))
    before = detector._usual
    detector.partial_fit(flows(3, 50))
    assert float(detector._count) == 50 + 5  # ten times the new ones count at most
    assert not torch.equal(detector._usual, before)
    torch.testing.assert_close(detector._usual, before, atol=0.3, rtol=0.0)
