"""ALAD: three judges, all of bounded slope, and a score that is zero where windows come back."""

import torch
from torch import Tensor, nn

from detectors import Budget, as_batch
from detectors.alad import Alad
from detectors.checks.subject import small
from detectors.loops.adversarial import Turn


class Same(nn.Module):
    """Hands rows on."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def test_what_comes_back_as_it_went_scores_exactly_zero() -> None:
    detector = Alad(code=5).fit(small("record"), budget=Budget(steps=2))
    detector._net.encoder = detector._net.generator = Same()  # type: ignore[assignment]
    inside = as_batch(detector._scaler.center.expand(7, -1) + torch.linspace(-0.1, 0.1, 7)[:, None])
    assert not detector.score(inside).score.any()


def test_the_score_is_what_the_judge_of_rows_sees_differently() -> None:
    data = small("record", seed=2)
    detector = Alad().fit(small("record"), budget=Budget(steps=2))
    rows, _ = detector._input(detector._prepare(data))
    net = detector._net
    copies = net.generator(net.encoder(rows.clamp(-1, 1)))
    same, other = (net.of_rows.features(torch.cat([rows, r], dim=1)) for r in (rows, copies))
    torch.testing.assert_close(detector.score(data).score, (same - other).abs().sum(dim=1))


def test_slopes_of_encoder_and_judges_are_bounded_and_that_of_the_maker_is_not() -> None:
    net = Alad().fit(small("record"), budget=Budget(steps=2))._net
    for part in (net.encoder, net.critic, net.of_rows, net.of_codes):
        linear = [m for m in part.modules() if isinstance(m, nn.Linear)]
        assert linear
        assert all("parametrizations" in dict(m.named_children()) for m in linear)
    assert not any("original" in name for name, _ in net.generator.named_parameters())


def test_every_judge_is_asked_about_what_comes_back() -> None:
    detector = Alad(smoothing=0.0, dropout=0.0).fit(small("record"), budget=Budget(steps=2))
    net, rows, noise = detector._net, torch.rand(6, 5) - 0.5, torch.randn(6, 32)
    judge, maker = detector._players()
    turn = Turn(rows, torch.ones_like(rows), noise)
    copies, codes = net.generator(net.encoder(rows)), net.encoder(net.generator(noise))
    logits = [
        (net.critic(rows, net.encoder(rows)), net.critic(net.generator(noise), noise)),
        tuple(net.of_rows(torch.cat([rows, r], dim=1)) for r in (rows, copies)),
        tuple(net.of_codes(torch.cat([noise, z], dim=1)) for z in (noise, codes)),
    ]
    log = nn.functional.logsigmoid
    both = sum(-log(real) - log(-made) for real, made in logits)
    torch.testing.assert_close(judge.loss(turn), both)
    against = -log(-logits[0][0]) - sum(log(made) for _, made in logits)
    torch.testing.assert_close(maker.loss(turn), against)
