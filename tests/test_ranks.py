"""Numbers by their rank among those of the fit."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors.nets.ranks import CUTS, Ranks

NUMBERS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


def ranks_of(seen: list[float], asked: list[float]) -> torch.Tensor:
    """Ranks of what is asked among single numbers seen."""
    ranks = Ranks(1)
    ranks.learn(torch.tensor(seen, dtype=torch.float32)[:, None])
    found: torch.Tensor = ranks(torch.tensor(asked)[:, None, None])
    return found[:, 0, 1]


@given(arrays(np.float32, st.integers(1, 300), elements=NUMBERS), NUMBERS)
def test_a_rank_is_the_share_of_the_fit_below(seen: np.ndarray, asked: float) -> None:
    found = (ranks_of(seen.tolist(), [asked]).item() + 1) / 2
    share = ((seen < asked).mean() + (seen <= asked).mean()) / 2
    # the nearest of the quantiles, and what each of a few numbers stands for
    assert abs(found - share) <= 1 / CUTS + 1 / (2 * len(seen))


def test_equal_numbers_share_the_middle_and_ends_are_ends() -> None:
    seen = [0.0] * 500 + [1.0] * 500
    found = ranks_of(seen, [-9.0, 0.0, 0.5, 1.0, 9.0])
    assert found.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_numbers_stay_beside_and_each_feature_has_its_own_ranks() -> None:
    num = torch.stack([torch.arange(256.0), torch.arange(256.0).flip(0) / 7], dim=1)[:, None]
    ranks = Ranks(2)
    ranks.learn(num[:, 0])
    found = ranks(num)
    assert found[..., :2].equal(num)
    torch.testing.assert_close(found[..., 2], -found[..., 3])
    assert (found[1:, 0, 2] >= found[:-1, 0, 2]).all()


def test_nothing_seen_tells_only_the_sign() -> None:
    ranks = Ranks(1)
    ranks.learn(torch.empty(0, 1))
    assert ranks(torch.tensor([[[-2.0], [2.0]]]))[0, :, 1].tolist() == [-1.0, 1.0]
