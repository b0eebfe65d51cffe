"""MO-GAAL: many makers cover what one does not; makers rest before the judge does."""

import numpy as np
import torch

from detectors import Budget
from detectors.adversarial import uniform
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.loops.adversarial import Turn
from detectors.mogaal import MultipleMakers

CENTRES = np.concatenate([np.eye(3) * 8 / np.sqrt(2), np.zeros((3, 5))], axis=1)


def covered(makers: int) -> int:
    """Clusters that at least a twentieth of the made points are near to."""
    detector = MultipleMakers(makers=makers, maker_rate=1.0, batch=128, stop=0.5, patience=1000)
    detector.fit(sample("CLUSTERS").train, budget=Budget(steps=600))
    generator = torch.Generator().manual_seed(0)
    made = detector._net.makers(detector._noise(200, generator)).flatten(0, 1)
    columns = made * detector._input.half + detector._input.centre
    values = columns * detector._scaler.scale + detector._scaler.center
    gaps = torch.cdist(values.detach(), torch.from_numpy(CENTRES).float())
    near = torch.bincount(gaps.argmin(dim=1)[gaps.amin(dim=1) < 5], minlength=3)
    return int((near > len(made) / 20).sum())


def test_many_makers_cover_clusters_that_one_leaves_out() -> None:
    assert covered(1) < covered(10) == len(CENTRES)


def test_losses_of_judge_and_makers_by_hand() -> None:
    detector = MultipleMakers(makers=4).fit(small("record"), budget=Budget(steps=6))
    net, generator = detector._net, torch.Generator().manual_seed(0)
    rows, noise = uniform(8, 5, generator), uniform(8, 5, generator)
    turn = Turn(rows, torch.ones_like(rows), noise)
    judge, makers = detector._players()
    d = torch.sigmoid(net.critic(rows)).squeeze(1)
    made = torch.sigmoid(net.critic(net.makers(noise))).squeeze(2)
    torch.testing.assert_close(judge.loss(turn), -d.log() - (1 - made).log().mean(dim=0))
    # from the least to the most typical part of the data
    targets = np.quantile(d.detach().numpy(), [1 / 8, 3 / 8, 5 / 8, 7 / 8])
    assert targets[0] < targets[3]
    expected = torch.zeros(8)
    for target, opinion in zip(targets.tolist(), made, strict=True):
        expected = expected - (target * opinion.log() + (1 - target) * (1 - opinion).log()) / 4
    torch.testing.assert_close(makers.loss(turn), expected)


def test_an_update_teaches_the_judge_and_leaves_the_makers() -> None:
    detector = MultipleMakers(batch=16).fit(small("record"), budget=Budget(steps=9))
    before = {n: p.clone() for n, p in detector._net.named_parameters()}
    detector.partial_fit(small("record", seed=3))
    for name, weight in detector._net.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("makers."), name
