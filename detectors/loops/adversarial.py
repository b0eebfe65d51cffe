"""Adversarial training: makers learn to pass off what they make, judges learn to see through it.

A judge gives logits: large for what it takes as real. What follows from a logit depends on the
game. Whatever the game, weights are not chosen by its losses, which say little of how good either
side is, but by how well the detector's own score tells held-out windows from synthetic ones on
their fringe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from detectors.device import beside

Game = Literal["bce", "wgan_gp", "hinge", "lsgan"]

PENALTY = 10.0
"""Weight of the gradient penalty of a Wasserstein critic."""

CRITIC_MOVES = 5
"""Moves of a Wasserstein critic for one of the maker, which needs a critic that is nearly right."""

SATURATED = 0.99
"""Mean probability beyond which a judge is too sure to teach: its gradients vanish."""

PATIENCE = 500
"""Mini-batches in a row that a judge may be too sure in before it starts over."""

FRINGE = 3.0
"""Largest spread of the noise on the fringe, in standard deviations of the columns."""

SWAPPED = 0.5
"""Share of the entries of a swapped row that come from other rows."""


class Turn(NamedTuple):
    """A mini-batch: rows and real entries ``[B, D]``, and noise ``[B, K]`` to make others from."""

    rows: Tensor
    real: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Rules:
    """How judge and maker value logits.

    Attributes
    ----------
    game
        ``bce`` takes them as log-odds (the maker's loss does not saturate), ``hinge`` and
        ``lsgan`` as numbers with margins and targets, ``wgan_gp`` as a potential whose gradient
        has length 1.
    smoothing
        What the target of real rows lies below 1; only for ``bce``.
    """

    game: Game = "bce"
    smoothing: float = 0.0

    @property
    def every(self) -> int:
        """Mini-batches from one move of the maker to the next; the judge moves on each."""
        return CRITIC_MOVES if self.game == "wgan_gp" else 1

    @property
    def betas(self) -> tuple[float, float]:
        """Memory of Adam: next to none of past gradients, which judged another opponent."""
        return (0.0, 0.9) if self.game == "wgan_gp" else (0.5, 0.999)

    def judge(self, logits: Tensor, real: bool) -> Tensor:
        """Loss ``[B]`` of a judge of rows that are real, or made."""
        if self.game == "bce":
            return cross_entropy(logits, 1 - self.smoothing if real else 0.0)
        if self.game == "hinge":
            return relu(1 - logits) if real else relu(1 + logits)
        if self.game == "lsgan":
            return 0.5 * (logits - float(real)).square()
        return -logits if real else logits

    def persuade(self, logits: Tensor, real: bool = True) -> Tensor:
        """Loss ``[B]`` of a maker that wants rows to be taken as real, or not."""
        if self.game == "bce":
            return cross_entropy(logits, float(real))
        if self.game == "lsgan":
            return 0.5 * (logits - float(real)).square()
        return -logits if real else logits

    def duel(
        self,
        critic: Callable[..., Tensor],
        real: tuple[Tensor, ...],
        made: tuple[Tensor, ...],
        watch: Watch | None = None,
    ) -> Tensor:
        """Loss ``[B]`` of a judge of pairs of real and made inputs, with the penalty of the game.

        Parameters
        ----------
        critic
            Inputs to logits ``[B]``.
        watch
            Is told the logits.
        """
        on_real, on_made = critic(*real), critic(*made)
        if watch is not None:
            watch.note(on_real, on_made)
        loss = self.judge(on_real, True) + self.judge(on_made, False)
        if self.game == "wgan_gp":
            loss = loss + PENALTY * (slope(critic, real, made) - 1).square()
        return loss


def cross_entropy(logits: Tensor, target: Tensor | float) -> Tensor:
    """``[B]``: of probabilities, given as log-odds ``[B]``, to a target in 0 .. 1."""
    return target * softplus(-logits) + (1 - target) * softplus(logits)


def seeing(critic: Callable[..., Tensor], real: Tensor) -> Callable[..., Tensor]:
    """Let a critic see of rows only what is ``real [B, D]``, so that the rest has no slope."""

    def see(rows: Tensor, *others: Tensor) -> Tensor:
        return critic(rows * real, *others)

    return see


def slope(
    critic: Callable[..., Tensor], real: tuple[Tensor, ...], made: tuple[Tensor, ...]
) -> Tensor:
    """Length ``[B]`` of the critic's gradient at random points between real and made inputs.

    Draws from torch's global generator.
    """
    share = beside(torch.rand(len(real[0]), 1), real[0])
    pairs = zip(real, made, strict=True)
    points = [(share * a + (1 - share) * b).detach().requires_grad_() for a, b in pairs]
    gradients = torch.autograd.grad(critic(*points).sum(), points, create_graph=True)
    squares = torch.cat(gradients, dim=1).square().sum(dim=1)
    return (squares + torch.finfo(squares.dtype).eps).sqrt()  # a root has no gradient at 0


class Watch:
    """Notices a judge that has long told real from made rows without doubt, or all alike.

    Such a judge teaches nothing any more.

    Parameters
    ----------
    game
        Only logits of ``bce`` are log-odds; in other games nothing is noticed.
    """

    def __init__(self, game: Game) -> None:
        self._game = game
        self._sums: Tensor | None = None
        self._count = 0
        self._stuck = 0

    def note(self, real: Tensor, made: Tensor) -> None:
        """Take in the logits of a mini-batch."""
        if self._game != "bce":
            return
        means = torch.stack([real.detach().sigmoid().mean(), made.detach().sigmoid().mean()])
        self._sums = means if self._sums is None else self._sums + means
        self._count += 1

    def stuck(self) -> bool:
        """Whether the judge has been too sure for too long; asked once an epoch."""
        if self._sums is None:
            return False
        means = [value / self._count for value in self._sums.tolist()]
        sure = max(means) > SATURATED or min(means) < 1 - SATURATED
        self._stuck = self._stuck + self._count if sure else 0
        self._sums, self._count = None, 0
        if self._stuck < PATIENCE:
            return False
        self._stuck = 0
        return True


def fringe(rows: Tensor, real: Tensor, generator: torch.Generator) -> Tensor:
    """Rows ``[N, D]`` that are only just abnormal, made from normal ones.

    Every other row has noise in all its entries, of anything from a tenth to the whole of
    ``FRINGE`` standard deviations; in the others, some entries come from other rows, so that each
    is usual and together they are not.
    """
    n, width = rows.shape
    size = FRINGE * 0.1 ** torch.rand(n, 1, generator=generator)
    noise = beside(size * torch.randn(n, width, generator=generator), rows)
    noisy = rows + noise * rows.std(dim=0, correction=0)
    donors = beside(torch.rand(n, width, generator=generator).argsort(dim=0), rows)
    swap = beside(torch.rand(n, width, generator=generator) < SWAPPED, rows)
    swapped = torch.where(swap, rows.gather(0, donors), rows)
    even = (torch.arange(n, device=rows.device) % 2 == 0).unsqueeze(1)
    return torch.where(even, noisy, swapped) * real


def separation(normal: Tensor, odd: Tensor) -> float:
    """Share of the pairs of scores in which the odd one is higher; ties count half."""
    ordered, odd = normal.sort().values, odd.contiguous()
    below = torch.searchsorted(ordered, odd)
    upto = torch.searchsorted(ordered, odd, right=True)
    return float((below + upto).double().mean()) / (2 * len(normal))
