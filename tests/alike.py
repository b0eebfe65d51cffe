"""Whether two states, or two objects that hold state, are alike to the last bit."""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

import numpy as np

from agents.silence import Silence
from agents.window.session import SessionWindows
from detectors.model import Model

_NO_STATE = {
    "_codes": "codes that are remembered change nothing",
    "_matcher": "as above",
    "_decoder": "has no state",
    "_space": "where keys wait that have no room; changes nothing",
    "_spill": "as above",
    "newcomers": "are those of the last fetch; nothing but a warning follows from them",
    "_traffic": "as above",
    "_free": "slots mean nothing, and those of the keys in memory are compared",
    "_sweep_at": "when keys of which nothing is known are forgotten; changes nothing",
    "_fresh": "follows from the clock, and decides only what is told again word for word",
    "_tests": "follow from the levels that they were fed, and are compared by what they find",
}


def assert_same(left: Any, right: Any, where: str = "state") -> None:
    """Compare trees: types, the order of names, and arrays to the bit."""
    assert type(left) is type(right), where
    if isinstance(left, np.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), where
        assert left.tobytes() == right.tobytes(), where
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for name, value in left.items():
            assert_same(value, right[name], f"{where}.{name}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(left, float):
        assert struct.pack("d", left) == struct.pack("d", right), where
    else:
        assert left == right, where


def assert_alike(left: Any, right: Any, where: str) -> None:
    """Compare objects attribute by attribute, so that none can be forgotten in a state."""
    assert type(left) is type(right), where
    if isinstance(left, np.ndarray):
        rows = min(len(left), len(right))  # one may have grown ahead of its need
        np.testing.assert_array_equal(left[:rows], right[:rows], where)
    elif isinstance(left, SessionWindows):  # whatever slot each session has
        assert_same(left.state(), right.state(), where)
        assert set(left._slots.of) == set(right._slots.of)
    elif isinstance(left, Silence):  # whatever row each key has
        assert_same(left.state(), right.state(), where)
    elif isinstance(left, Model):
        assert left.model_id == right.model_id
    else:
        names, values = parts_of(left)
        others, their_values = parts_of(right)
        assert names == others, where
        if names is None:
            assert left == right or (left != left and right != right), where
        for name, value, theirs in zip(names or [], values, their_values, strict=True):
            assert_alike(value, theirs, f"{where}.{name}")


def parts_of(value: Any) -> tuple[list[Any] | None, list[Any]]:
    """What an object is made of: names and values."""
    if isinstance(value, dict):
        return list(value), list(value.values())
    if isinstance(value, list | deque) or type(value) is tuple:
        return list(range(len(value))), list(value)
    names = getattr(value, "__dict__", getattr(value, "__dataclass_fields__", None))
    if names is None:
        return None, []
    kept = [name for name in names if name not in _NO_STATE]
    values = [getattr(value, name) for name in kept]
    for index, name in enumerate(kept):
        if name in ("_block", "_block_common"):  # however it was cut
            values[index] = np.concatenate([np.empty(0), *values[index]])
    return kept, values
