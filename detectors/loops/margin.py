"""Margin: a value that is large for normal windows, and an offset that all but a few exceed.

The value stands for ``w . z`` of a one-class support vector machine, the offset for its ``rho``.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu


def offset_of(values: Tensor, nu: float) -> Tensor:
    """Return the ``nu`` quantile ``[...]`` of values ``[N, ...]``; ``floor(nu N)`` lie below it.

    It is where the mean of ``max(0, rho - value) / nu - rho`` is least.
    """
    below = min(len(values) - 1, int(nu * len(values)))
    return values.kthvalue(below + 1, dim=0).values


def margin_loss(values: Tensor, nu: float) -> Tensor:
    """``max(0, rho - value) / nu - rho`` of values ``[B, ...]``, with the best ``rho`` for them.

    The best one for all windows, renewed from time to time, would stop training: a step that raises
    all values a little leaves none below an old offset, and nothing to learn from.
    """
    offset = offset_of(values, nu)
    return relu(offset - values) / nu - offset
