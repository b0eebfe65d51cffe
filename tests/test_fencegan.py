"""Fence GAN: a fence that goes all the way around, at the edge, neither in the data nor far off."""

import math
from functools import cache

import torch

from detectors import Budget, WindowBatch, as_batch
from detectors.fencegan import FenceGan
from detectors.loops.adversarial import Turn, cross_entropy


def gaussian(n: int, seed: int) -> WindowBatch:
    return as_batch(torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)))


@cache
def learned() -> FenceGan:
    detector = FenceGan(batch=128, attempts=1, epochs=1000, learning_rate=3e-3)
    return detector.fit(gaussian(2000, 0), budget=Budget(steps=600))


def fence() -> torch.Tensor:
    noise = torch.randn(2000, 32, generator=torch.Generator().manual_seed(5))
    made: torch.Tensor = learned()._net.generator(noise)
    return made


def test_the_fence_surrounds_the_data_from_outside() -> None:
    detector = learned()
    rows, _ = detector._input(detector._prepare(gaussian(2000, 1)))
    made = fence() - rows.mean(dim=0)
    inside = (rows - rows.mean(dim=0)).norm(dim=1).mean()
    assert 1.0 < float(made.norm(dim=1).mean() / inside) < 3.0
    quadrant = (made[:, 0] > 0).long() + 2 * (made[:, 1] > 0).long()
    assert int(torch.bincount(quadrant, minlength=4).min()) > 100


def test_far_points_score_above_the_data_in_every_direction() -> None:
    angle = torch.arange(32) * 2 * math.pi / 32
    ring = as_batch(6 * torch.stack([angle.cos(), angle.sin()], dim=1))
    usual = learned().score(gaussian(1000, 2)).score.quantile(0.99)
    assert float(learned().score(ring).score.min()) > float(usual)


def test_the_edge_costs_least_where_the_judge_thinks_alpha() -> None:
    d = torch.linspace(0.01, 0.99, 99)
    for alpha in (0.1, 0.5, 0.8):
        cost = cross_entropy(torch.logit(d), alpha)
        assert abs(float(d[cost.argmin()]) - alpha) < 1e-3


def test_losses_of_judge_and_fence_by_hand() -> None:
    detector = FenceGan(attempts=1, alpha=0.3, beta=0.7, gamma=0.4)
    detector.fit(gaussian(300, 0), budget=Budget(steps=2))
    net, generator = detector._net, torch.Generator().manual_seed(0)
    rows, noise = (torch.randn(50, n, generator=generator) for n in (2, 32))
    turn = Turn(rows, torch.ones_like(rows), noise)
    judge, fence = detector._players()
    made = net.generator(noise)
    d_rows, d_made = torch.sigmoid(net.critic(rows)), torch.sigmoid(net.critic(made))
    torch.testing.assert_close(judge.loss(turn), -d_rows.log() - 0.4 * (1 - d_made).log())
    edge = -0.3 * d_made.log() - 0.7 * (1 - d_made).log()
    radius, wide = ((x - x.mean(dim=0)).norm(dim=1).mean() for x in (rows, made))
    torch.testing.assert_close(fence.loss(turn), edge + 0.7 * radius / wide)


def test_a_wider_fence_is_pulled_less_and_one_point_does_no_harm() -> None:
    detector = FenceGan(attempts=1).fit(gaussian(300, 0), budget=Budget(steps=2))
    rows, noise = gaussian(50, 1).num[:, 0], torch.randn(50, 32)
    turn, net = Turn(rows, torch.ones_like(rows), noise), detector._net
    _, fence = detector._players()
    costs = list[float]()
    made = net.generator(noise).detach()
    net.critic.forward = lambda rows: torch.zeros(len(rows))  # type: ignore[method-assign]
    for size in (0.5, 1.0, 2.0):
        net.generator.forward = lambda _, size=size: size * made  # type: ignore
        costs.append(float(fence.loss(turn).mean()))
    assert costs[0] > costs[1] > costs[2]
    net.generator.forward = lambda noise: made[:1].expand(50, -1)  # type: ignore
    assert math.isfinite(float(fence.loss(turn).mean()))


def test_an_update_teaches_the_judge_and_leaves_the_fence() -> None:
    detector = FenceGan(attempts=1, batch=64).fit(gaussian(300, 0), budget=Budget(steps=10))
    before = {n: p.clone() for n, p in detector._net.named_parameters()}
    detector.partial_fit(gaussian(300, 3))
    for name, weight in detector._net.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("generator."), name
