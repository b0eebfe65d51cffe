"""Plain feed-forward networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

relu = partial(nn.ReLU, inplace=True)
"""Nobody looks at what a layer gives before its activation, and fresh memory costs time."""


def mlp(
    widths: Sequence[int], *, bias: bool = True, activation: Callable[[], nn.Module] = relu
) -> nn.Sequential:
    """Linear layers with an activation between them and none at the end.

    Parameters
    ----------
    widths
        Sizes of input, hidden layers and output: ``n + 1`` numbers for ``n`` layers.
    bias
        Whether layers add a constant. One-class networks must not: a bias alone can reproduce
        their centre for every input.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])
