"""Vocabularies: category codes to the dense ids that a detector knows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.batch import NEW

FIRST = NEW + 1


class Vocabulary(msgspec.Struct, frozen=True):
    """The values of a category field that were seen at fit, the most frequent first.

    Attributes
    ----------
    codes
        Stable codes, as they stand in window state; value ``i`` has id ``i + 2``.
    """

    codes: tuple[int, ...]

    @classmethod
    def fit(cls, codes: NDArray[np.int32], limit: int = 4096) -> Vocabulary:
        """Learn from ``[n]`` codes; values beyond the ``limit`` most frequent count as new."""
        values, counts = np.unique(codes, return_counts=True)
        order = np.lexsort((values, -counts))[:limit]
        return cls(tuple(values[order].tolist()))

    def __len__(self) -> int:
        """Return the number of ids, padding and new included."""
        return len(self.codes) + FIRST


class VocabularyIndex:
    """Looks codes up in vocabularies, a whole array at a time."""

    def __init__(self, vocabularies: Sequence[Vocabulary]) -> None:
        self._tables = []
        for vocabulary in vocabularies:
            codes = np.array(vocabulary.codes, dtype=np.int32)
            order = np.argsort(codes)
            self._tables.append((codes[order], order.astype(np.int64) + FIRST))

    def __call__(self, codes: NDArray[np.int32]) -> NDArray[np.int64]:
        """Turn codes ``[..., C]`` into ids; codes not seen at fit become ``NEW``."""
        ids = np.full(codes.shape, NEW, dtype=np.int64)
        for field, (known, number) in enumerate(self._tables):
            if len(known):
                column = codes[..., field]
                at = np.minimum(np.searchsorted(known, column), len(known) - 1)
                ids[..., field] = np.where(known[at] == column, number[at], NEW)
        return ids
