"""OCAN: makers that spread where data is not dense, and sessions scored before they end."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from detectors import Budget
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.adversarial import Turn
from detectors.loops.stage import Run, Stage
from detectors.nets.adversarial import Critic
from detectors.ocan import Ocan, dense_part, pull_away


def test_pull_away_is_one_for_equal_directions_and_zero_for_orthogonal_ones() -> None:
    assert float(pull_away(torch.tensor([[1.0, 2.0]]).repeat(5, 1))) == pytest.approx(1.0)
    assert float(pull_away(torch.tensor([[3.0, 0.0], [-2.0, 0.0]]))) == pytest.approx(1.0)
    assert float(pull_away(torch.eye(4))) == pytest.approx(0.0)
    assert float(pull_away(torch.ones(1, 3))) == pytest.approx(0.0)
    mixed = pull_away(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    assert float(mixed) == pytest.approx((0.5 + 0.5 + 0.0) / 3)


def test_only_dense_places_cost() -> None:
    logits = torch.tensor([-4.0, 0.5, 3.0])
    found = dense_part(logits)
    middle = float((torch.sigmoid(logits[0]) + torch.sigmoid(logits[2])) / 2)
    assert float(torch.sigmoid(logits[1])) > middle
    expected = torch.log(torch.sigmoid(logits))
    torch.testing.assert_close(found, torch.stack([torch.zeros(()), expected[1], expected[2]]))


def test_the_judge_is_paid_for_being_firm_on_normal_vectors() -> None:
    detector = Ocan(entropy=1.5).fit(small("record"), budget=Budget(steps=6))
    net, rows, noise = detector._net, torch.rand(6, 5) - 0.5, torch.randn(6, 50)
    (judge,) = detector._players()
    d, made = torch.sigmoid(net.critic(rows)), torch.sigmoid(net.critic(net.generator(noise)))
    expected = -torch.log(d) - torch.log(1 - made) - 1.5 * d * torch.log(d)
    turn = Turn(rows, torch.ones_like(rows), noise)
    torch.testing.assert_close(judge.loss(turn), expected)


def test_the_maker_flees_dense_places_spreads_and_stays_near() -> None:
    detector = Ocan().fit(small("record"), budget=Budget(steps=6))
    net, generator = detector._net, torch.Generator().manual_seed(0)
    rows, noise = (torch.randn(6, n, generator=generator) for n in (5, 50))
    maker = detector._maker(lambda rows: 3 * rows[:, 0])
    assert list(maker.modules) == [net.generator]
    made = net.generator(noise)
    features = net.critic.features(made)
    gap = net.critic.features(rows).mean(dim=0) - features.mean(dim=0)
    density = torch.sigmoid(3 * made[:, 0])
    dense = density > (density.max() + density.min()) / 2
    assert bool(dense.any())
    assert not bool(dense.all())
    expected = density.log() * dense + pull_away(features) + gap.square().sum().sqrt()
    found = maker.loss(Turn(rows, torch.ones_like(rows), noise))
    torch.testing.assert_close(found, expected)
    # the denser a place, the dearer
    order = found[dense].argsort()
    assert torch.equal(order, density[dense].argsort())


def test_where_all_is_sparse_nothing_pushes() -> None:
    logits = torch.linspace(-20, -10, 5, requires_grad=True)
    dense_part(logits).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_density_learns_for_long_enough_from_few_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = list[int]()
    compete = Ocan._compete

    def watched(self: Ocan, stage: Stage, *rest: Any) -> float:
        seen.append(stage.settings.epochs)
        return compete(self, stage, *rest)

    monkeypatch.setattr(Ocan, "_compete", watched)
    for batch, epochs in ((256, 300), (5, 34), (1, 10)):  # 1, 9 and 43 mini-batches an epoch
        Ocan(batch=batch).fit(small("record"), budget=Budget(steps=2))
        assert seen[-2] == epochs


@cache
def learned() -> tuple[Ocan, list[Critic]]:
    """A detector of SUBSPACE, and the density that its maker was taught by."""
    kept: list[Critic] = []

    class Watched(Ocan):
        def _learn_density(self, run: Run, early: object, late: object) -> Critic:
            kept.append(super()._learn_density(run, early, late))  # type: ignore[arg-type]
            return kept[-1]

        def _stage(self, run: Run) -> Stage:
            return replace(super()._stage(run), average=0.0)

    detector = Watched(batch=64).fit(sample("SUBSPACE").train, budget=Budget(steps=400))
    return detector, kept


def test_made_vectors_lie_in_the_box_where_normal_ones_are_sparse() -> None:
    detector, (density,) = learned()
    rows, _ = detector._input(detector._prepare(sample("SUBSPACE").normal))
    noise = torch.randn(500, 50, generator=torch.Generator().manual_seed(0))
    made = detector._net.generator(noise)
    inside = (made >= rows.amin(dim=0)) & (made <= rows.amax(dim=0))
    assert float(inside.float().mean()) > 0.9
    on_real = torch.sigmoid(density(rows.clamp(-1, 1))).mean()
    assert float(torch.sigmoid(density(made)).mean()) < float(on_real)


@pytest.mark.parametrize("name", ["events", "sequence"])
def test_the_state_after_a_step_is_the_vector_of_the_session_so_far(name: str) -> None:
    data = small(name, seed=2)[:20]  # all of them full
    detector = Ocan(hidden=8).fit(small(name), budget=Budget(steps=10))
    prepared = detector._prepare(data)
    reader = detector._reader
    running = reader.encoder.lstm(reader.input(prepared))[0]
    for t in range(1, data.steps + 1):
        brief = replace(data, num=data.num[:, :t], cat=data.cat[:, :t], mask=data.mask[:, :t])
        vectors = detector._vectors(detector._prepare(brief))
        torch.testing.assert_close(vectors.num[:, 0], running[:, t - 1])
        rows, real = detector._input(replace(vectors, num=running[:, t - 1 : t]))
        score = detector._examine(rows, real, explain=False).score
        torch.testing.assert_close(detector.score(brief).score, score, atol=1e-5, rtol=1e-4)


def test_records_need_no_reader() -> None:
    detector = Ocan().fit(small("mixed"), budget=Budget(steps=4))
    assert not any(name.startswith("reader.") for name in detector.tensors())
