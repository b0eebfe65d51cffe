"""Replicator network: records are copied through a few levels, as if sorted into clusters."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining
from detectors.loops.stage import Count, Positive

GENTLE = 4.0
"""Steepness that training takes the gradient at: that of a steep staircase is zero but at jumps."""


def staircase(inputs: Tensor, levels: int, steepness: float) -> Tensor:
    """Rise from 0 to 1 in ``levels`` plateaus, with jumps at ``1/levels, 2/levels, ...``.

    ``S(u) = 1/2 + sum_j tanh(a (u - j/n)) / (2 (n - 1))`` over ``j = 1 .. n - 1``.
    """
    jumps = torch.arange(1, levels, device=inputs.device) / levels
    steps = torch.tanh(steepness * (inputs.unsqueeze(-1) - jumps))
    return 0.5 + steps.sum(dim=-1) / (2 * (levels - 1))


class ReplicatorNet(nn.Module):
    """``D - hidden - code - hidden - D``: tanh outside, a staircase in the middle."""

    def __init__(self, inputs: int, hidden: int, code: int, levels: int, steepness: float) -> None:
        super().__init__()
        middle = nn.Linear(hidden, code)
        nn.init.constant_(middle.bias, 0.5)  # half-way up the stairs
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), middle)
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.Tanh(), nn.Linear(hidden, inputs))
        self.levels, self.steepness = levels, steepness

    def code(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the levels ``[B, K]``, in 0 .. 1."""
        inputs = self.encoder(rows)
        sharp = staircase(inputs, self.levels, self.steepness)
        if not self.training:
            return sharp
        smooth = staircase(inputs, self.levels, min(GENTLE, self.steepness))
        return smooth + (sharp - smooth).detach()

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to its copy."""
        copy: Tensor = self.decoder(self.code(rows))
        return copy


class Replicator(DenseDetector):
    """Error of copying a record through units that only know a few levels.

    The middle layer's activation is a staircase of ``levels`` plateaus, so that records are sorted
    into cells, and all records of a cell get almost the same copy. Training minimises
    ``||x - xhat||²``; the score is the outlier factor ``(1/D) sum_j (x_j - xhat_j)²``.

    Shapes
    ------
    Records, windows ``[B, T, F + C]`` of one step with ``D`` columns; about ``80 D + 500``
    multiply-adds a record.

    Notes
    -----
    The levels of the middle layer are a discrete code, the cell of a record.

    From the paper: layers, activations, outlier factor. Adaptations: the gradient is taken at a
    gentle slope while values come from the steep staircase (straight-through), because on a plateau
    there is none; the output is linear, since scaled numbers are not confined to 0 .. 1; one
    network reads all categories as columns instead of one network per combination of them.

    References
    ----------
    Hawkins et al. 2002, *Outlier detection using replicator neural networks*. Survey: Pang et al.
    2020, section 5.1.1.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        hidden
            Width of the two outer hidden layers.
        code
            Units of the middle layer.
        levels
            Plateaus of each of them.
        steepness
            Of the jumps between plateaus.
        whiten
            Off: the outlier factor weighs all columns alike.
        """

        hidden: Count = 40
        code: Count = 6
        levels: Annotated[int, msgspec.Meta(ge=2)] = 4
        steepness: Positive = 100.0
        learning_rate: Positive = 3e-3
        whiten: bool = False

    caps = Capabilities(
        name="replicator",
        section="5.1.1",
        supervision="unsupervised",
        kinds=("record",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="reconstruction",
        sources=("CLUSTERS",),
    )

    def _network(self, columns: int) -> nn.Module:
        config = self.config
        return ReplicatorNet(columns, config.hidden, config.code, config.levels, config.steepness)
