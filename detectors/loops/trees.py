"""Complete binary trees in flat tables: the walk of many windows through many trees at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cuts:
    """The cuts of ``G`` complete trees of one depth ``h``, level by level from the root.

    Attributes
    ----------
    column, threshold
        ``[G, 2^h - 1]``: column that an inner node compares, and the value up to which a window
        goes to the left; infinite where the node is not cut and everything goes to the left.
    """

    column: Tensor
    threshold: Tensor

    @property
    def depth(self) -> int:
        """``h``."""
        return int(self.column.shape[1]).bit_length()

    def walk(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Lead windows ``[B, D]`` down; at each level give the columns and the ways taken.

        Yields
        ------
        tuple
            ``[G, B]`` indices into ``x.flatten()``, and ``[G, B]`` places on the next level,
            counted from its left end.
        """
        trees, inner = self.column.shape
        offset = torch.arange(trees, device=x.device).unsqueeze(1) * inner
        rows = torch.arange(len(x), device=x.device) * x.shape[1]
        place = torch.zeros(trees, len(x), dtype=torch.int64, device=x.device)
        for level in range(self.depth):
            node = place + (offset + (2**level - 1))
            entry = pick(self.column, node) + rows
            place = place * 2 + (pick(x, entry) > pick(self.threshold, node))
            yield entry, place

    def leaves(self, x: Tensor) -> Tensor:
        """Places ``[G, B]`` at the bottom, in ``0 .. 2^h - 1``."""
        place = torch.zeros(len(self.column), len(x), dtype=torch.int64, device=x.device)
        for _, place in self.walk(x):  # noqa: B007 - the last one counts
            pass
        return place

    def credit(self, x: Tensor, gains: list[Tensor]) -> Tensor:
        """Add up what the cuts on the way of ``[B, D]`` windows earn, by column, ``[B, D]``.

        Parameters
        ----------
        gains
            For each level below the root ``[G, 2^level]``, what arriving there has earned.
        """
        credit = torch.zeros_like(x)
        for (entry, place), gain in zip(self.walk(x), gains, strict=True):
            earned = gain.gather(1, place)
            credit.view(-1).index_add_(0, entry.view(-1), earned.view(-1))
        return credit


def pick(table: Tensor, index: Tensor) -> Tensor:
    """Return ``table.flatten()[index]``; on one core the fastest of the ways to say it."""
    return table.view(-1).index_select(0, index.view(-1)).view(index.shape)


def masses(place: Tensor, size: int) -> Tensor:
    """Count the places ``[G, N]`` at the bottom, ``[G, size]`` float32."""
    counts = torch.zeros(len(place), size, device=place.device)
    return counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))


def levels(bottom: Tensor) -> list[Tensor]:
    """Masses of all levels, root first: ``[G, 1]`` up to the given ``[G, 2^h]``."""
    found = [bottom]
    while found[0].shape[1] > 1:
        trees, width = found[0].shape
        found.insert(0, found[0].view(trees, width // 2, 2).sum(dim=2))
    return found
