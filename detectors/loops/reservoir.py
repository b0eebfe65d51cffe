"""Uniform samples of bounded size from streams of unknown length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def slots_of_sample(shape: tuple[int, ...], seen: int, seed: int) -> Tensor:
    """Draw the slot that each of ``shape[-1]`` new windows takes in a full sample.

    Parameters
    ----------
    shape
        ``(n,)``, or ``(g, n)`` for ``g`` independent samples of the same stream.
    seen
        Windows before these. It is part of the seed, so that consecutive calls draw anew.

    Returns
    -------
    Tensor
        ``shape``, int64, uniform below the number of windows so far. A slot beyond the size of
        the sample means that the window is not taken.

    References
    ----------
    Vitter 1985, *Random sampling with a reservoir* (algorithm R).
    """
    generator = torch.Generator().manual_seed(seed + seen)
    chance = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (chance * (seen + torch.arange(shape[-1]) + 1)).long()


def last_taken(slots: Tensor, size: int) -> Tensor:
    """Return ``[..., size]``: which window each slot holds after all ``slots [..., n]``, or -1."""
    order = torch.arange(slots.shape[-1]).expand_as(slots)
    taken = torch.full((*slots.shape[:-1], size + 1), -1)  # the last one is for those left out
    return taken.scatter_reduce(-1, slots.clamp(max=size), order, "amax")[..., :size]


def absorb(
    held: tuple[Tensor, Tensor],
    new: tuple[Tensor, Tensor],
    capacity: int,
    slots: Callable[[int, int], Tensor],
) -> tuple[Tensor, Tensor]:
    """Put new windows into a sample: first where there is room, then in place of old ones.

    Parameters
    ----------
    held, new
        Rows ``[M, D]`` and lengths ``[M]`` of the sample, and of the new windows.
    capacity
        Most windows that the sample may hold.
    slots
        Called with how many windows found no room, and how many did; the slot that each of the
        former takes.
    """
    free = capacity - len(held[0])
    rows, lengths = (torch.cat([old, more[:free]]) for old, more in zip(held, new, strict=True))
    left = len(new[0][free:])
    last = last_taken(slots(left, free), len(rows)).to(rows.device)
    hit = last >= 0
    rows[hit], lengths[hit] = (more[free:][last[hit]] for more in new)
    return rows, lengths
