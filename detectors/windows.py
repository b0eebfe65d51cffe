"""Windows as the pipeline keeps them, and as detectors take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from detectors.batch import WindowBatch
from detectors.vocabulary import Vocabulary, VocabularyIndex

GAP = "gap"
MISSING = "missing"


class Layout(msgspec.Struct, frozen=True):
    """What the windows of a route look like; two layouts that differ never share a model.

    Attributes
    ----------
    stream, route
        Names.
    steps, numbers, categories
        Steps of a window, and names of its numeric and category features.
    window
        The window specification, as text.
    """

    stream: str
    route: str
    steps: int
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    window: str


@dataclass(frozen=True, slots=True)
class WindowArrays:
    """Windows as the pipeline keeps them, oldest first.

    ``num`` float32 ``[W, T, F]`` with ``NaN`` where missing, ``cat`` int32 codes ``[W, T, C]``,
    ``length`` ``[W]`` real steps, ``time`` ``[W]`` event time of the last record in ns.
    """

    num: NDArray[np.float32]
    cat: NDArray[np.int32]
    length: NDArray[np.int64]
    time: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, rows: Any) -> WindowArrays:
        """Pick windows."""
        return WindowArrays(self.num[rows], self.cat[rows], self.length[rows], self.time[rows])


def feature_columns(layout: Layout) -> list[str]:
    """Name what a model explains by: numbers, missing values if there are numbers, categories."""
    missing = [MISSING] if layout.numbers else []
    return [*layout.numbers, *missing, *layout.categories]


class WindowEncoder:
    """Turns windows into tensors: ids for codes, and a count of missing numbers at each step.

    The gap before a key's first record does not count as missing: it cannot be known.
    """

    def __init__(self, layout: Layout, vocabularies: Sequence[Vocabulary]) -> None:
        self._counted = [i for i, name in enumerate(layout.numbers) if name != GAP]
        self._index = VocabularyIndex(vocabularies)
        self._sizes = tuple(len(vocabulary) for vocabulary in vocabularies)

    def __call__(self, windows: WindowArrays) -> WindowBatch:
        """Encode windows for a detector."""
        num, steps = windows.num, windows.num.shape[1]
        if num.shape[2]:
            counted = num[:, :, self._counted]
            missing = np.isnan(counted).sum(axis=2, keepdims=True, dtype=np.float32)
            num = np.concatenate([num, missing], axis=2)
        mask = np.arange(steps) < windows.length[:, None]
        return WindowBatch(
            num=torch.from_numpy(num),
            cat=torch.from_numpy(self._index(windows.cat)),
            mask=torch.from_numpy(mask),
            vocab=self._sizes,
        )
