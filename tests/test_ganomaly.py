"""GANomaly: codes alone decide, unless the residual is asked for; the loss by hand."""

from functools import cache

import torch
from torch import Tensor, nn

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.ganomaly import Ganomaly
from detectors.loops.adversarial import Turn


class Constant(nn.Module):
    """The same row whatever comes in."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = row

    def forward(self, rows: Tensor) -> Tensor:
        return self.row.expand(len(rows), -1)


def test_equal_codes_score_zero_however_far_the_copy_is() -> None:
    data = small("record")
    detector = Ganomaly(code=2).fit(data, budget=Budget(steps=2))
    code = torch.tensor([0.3, -0.7])
    detector._net.first = detector._net.second = Constant(code)  # type: ignore[assignment]
    detector._net.decoder = Constant(torch.full((5,), -1.0))  # type: ignore[assignment]
    found = detector.score(data, explain="full")
    assert not found.score.any()
    assert found.expected is not None
    assert float((found.expected - data.num).abs().mean()) > 0.5
    detector._net.second = Constant(code + 0.5)  # type: ignore[assignment]
    torch.testing.assert_close(detector.score(data).score, torch.ones(len(data)))


def test_the_loss_is_the_weighted_sum_of_three_distances() -> None:
    detector = Ganomaly(code=2, adversarial=2.0, contextual=30.0, encoding=5.0)
    detector.fit(small("record"), budget=Budget(steps=2))
    rows, real = detector._input(detector._prepare(small("record", seed=2)))
    rows = rows.clamp(-1, 1)
    net = detector._net
    code = net.first(rows)
    copies = net.decoder(code)
    features = net.critic.features(rows) - net.critic.features(copies)
    expected = (
        2 * features.square().mean(dim=1).sqrt()
        + 30 * (rows - copies).abs().mean(dim=1)
        + 5 * (code - net.second(copies)).square().mean(dim=1).sqrt()
    )
    found = detector._make(Turn(rows, real, torch.zeros(len(rows), 2)))
    torch.testing.assert_close(found, expected)


@cache
def learned(score: str) -> Ganomaly:
    detector = Ganomaly(score=score, batch=64, learning_rate=2e-3)
    return detector.fit(sample("SUBSPACE").train, budget=Budget(steps=300))


def test_the_residual_sees_more_where_the_code_is_coarse() -> None:
    data = sample("SUBSPACE")
    found = {
        score: ranking(
            learned(score).score(data.normal).score, learned(score).score(data.anomalous).score
        )
        for score in ("codes", "residual")
    }
    assert found["residual"] > 0.9
    assert found["residual"] > found["codes"]
