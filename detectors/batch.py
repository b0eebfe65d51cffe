"""Windows as tensors: the only thing that a detector ever sees.

A record is a window of one step. Values are raw (a detector scales them itself, with statistics
that it learned in ``fit``); ``NaN`` is a missing number, category id 0 is padding and id 1 a value
that was not seen at fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from schemas.errors import DataError, ShapeError

PAD = 0
NEW = 1


@dataclass(frozen=True)
class WindowBatch:
    """``B`` windows of up to ``T`` steps, ``F`` numbers and ``C`` category ids a step.

    Attributes
    ----------
    num
        ``[B, T, F]`` float32, ``NaN`` where missing. ``F`` may be 0.
    cat
        ``[B, T, C]`` int64 in ``0 .. vocab[c] - 1``. ``C`` may be 0.
    mask
        ``[B, T]`` bool, true where the step is real. Padding stands on the right.
    vocab
        Number of ids of each category field, ids 0 (padding) and 1 (new) included.
    """

    num: Tensor
    cat: Tensor
    mask: Tensor
    vocab: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        b, t = self.mask.shape
        if tuple(self.num.shape[:2]) != (b, t) or tuple(self.cat.shape[:2]) != (b, t):
            msg = (
                f"window batch: num {tuple(self.num.shape)}, cat {tuple(self.cat.shape)} and mask "
                f"{tuple(self.mask.shape)} must agree in their first two sizes [B, T]"
            )
            raise ShapeError(msg)
        if len(self.vocab) != self.cat.shape[2]:
            msg = f"window batch: {self.cat.shape[2]} category fields but vocab={self.vocab}"
            raise ShapeError(msg)

    def __len__(self) -> int:
        return int(self.mask.shape[0])

    @property
    def steps(self) -> int:
        """``T``, padding included."""
        return int(self.mask.shape[1])

    @property
    def features(self) -> int:
        """``F``."""
        return int(self.num.shape[2])

    @property
    def fields(self) -> int:
        """``C``."""
        return int(self.cat.shape[2])

    @property
    def lengths(self) -> Tensor:
        """``[B]`` int64, the number of real steps of each window."""
        return self.mask.sum(dim=1)

    @property
    def known_full(self) -> bool:
        """Whether no step is padding; ``False`` also where a device would have to be asked."""
        return self.mask.device.type == "cpu" and bool(self.mask.all())

    def __getitem__(self, rows: slice | Tensor) -> WindowBatch:
        """Select windows by slice, index tensor or bool tensor."""
        return replace(self, num=self.num[rows], cat=self.cat[rows], mask=self.mask[rows])

    def padded(self, steps: int) -> WindowBatch:
        """Add masked steps on the right up to ``steps``; cut what is beyond."""
        more, pad = steps - self.steps, torch.nn.functional.pad
        return replace(
            self,
            num=pad(self.num, (0, 0, 0, more)),
            cat=pad(self.cat, (0, 0, 0, more)),
            mask=pad(self.mask, (0, more)),
        )

    def to(self, device: str | torch.device) -> WindowBatch:
        """Copy to ``device``; on the same device, itself."""
        if self.mask.device == torch.device(device):
            return self
        return replace(
            self, num=self.num.to(device), cat=self.cat.to(device), mask=self.mask.to(device)
        )

    @staticmethod
    def concatenate(parts: Sequence[WindowBatch]) -> WindowBatch:
        """Put windows of equal shape behind each other."""
        num, cat, mask = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("num", "cat", "mask")
        )
        return replace(parts[0], num=num, cat=cat, mask=mask)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """All tensors, under names that start with ``prefix``: for detectors that keep windows."""
        return {f"{prefix}{name}": getattr(self, name) for name in ("num", "cat", "mask")}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str, vocab: tuple[int, ...]) -> Self:
        """Rebuild what :meth:`state` described; ``KeyError`` if a part is missing."""
        num, cat, mask = (state[f"{prefix}{name}"] for name in ("num", "cat", "mask"))
        return cls(num, cat, mask, vocab)

    def chunks(self, size: int) -> Iterator[WindowBatch]:
        """Cut into batches of at most ``size`` windows, in order."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


Windows: TypeAlias = "WindowBatch | ArrayLike"


def as_batch(windows: Windows) -> WindowBatch:
    """Make a :class:`WindowBatch` of what a notebook has at hand.

    Parameters
    ----------
    windows
        A window batch (returned as it is), records ``[N, F]`` or windows ``[N, T, F]`` of numbers.

    Raises
    ------
    DataError
        If the array is not numeric.
    ShapeError
        If it has neither two nor three dimensions.
    """
    if isinstance(windows, WindowBatch):
        return windows
    array = windows.numpy(force=True) if isinstance(windows, Tensor) else np.asarray(windows)
    if array.dtype.kind not in "fiub":
        msg = f"windows: dtype {array.dtype} is not numeric; encode categories first (see events())"
        raise DataError(msg)
    if array.ndim == 2:
        array = array[:, None, :]
    if array.ndim != 3:
        msg = f"windows: expected [N, F] or [N, T, F], got {array.shape}; reshape to one of them"
        raise ShapeError(msg)
    n, t, _ = array.shape
    return WindowBatch(
        num=torch.from_numpy(np.array(array, dtype=np.float32)),
        cat=torch.zeros((n, t, 0), dtype=torch.int64),
        mask=torch.ones((n, t), dtype=torch.bool),
    )


def events(ids: ArrayLike, lengths: ArrayLike | None = None, *, vocab: int) -> WindowBatch:
    """Make a batch of event-id sequences, for instance of log templates.

    Parameters
    ----------
    ids
        ``[N, T]`` integers in ``2 .. vocab - 1`` (0 is padding, 1 an id not seen at fit).
    lengths
        ``[N]`` number of real events of each row; all ``T`` if left out.
    vocab
        Number of ids, 0 and 1 included.
    """
    array: NDArray[np.int64] = np.array(ids, dtype=np.int64)
    if array.ndim != 2:
        msg = f"events: expected ids [N, T], got {array.shape}; pad the sequences to one length"
        raise ShapeError(msg)
    n, t = array.shape
    real = np.full(n, t) if lengths is None else np.asarray(lengths)
    mask = np.arange(t)[None, :] < real[:, None]
    if array.size and (array.min() < 0 or array.max() >= vocab):
        msg = f"events: ids span {array.min()}..{array.max()}, outside 0..{vocab - 1}; raise vocab"
        raise DataError(msg)
    return WindowBatch(
        num=torch.zeros((n, t, 0), dtype=torch.float32),
        cat=torch.from_numpy(np.where(mask, array, PAD))[:, :, None],
        mask=torch.from_numpy(mask),
        vocab=(vocab,),
    )
