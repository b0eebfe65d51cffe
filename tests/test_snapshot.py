"""Snapshots: what is unpacked is what was packed, and bytes that were harmed are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.snapshot import State, pack, unpack
from schemas.errors import DataError
from tests.alike import assert_same

_DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(),
)
_SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
)
_TREES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.recursive(
        _SCALARS | hnp.arrays(_DTYPES, _SHAPES),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=4)
        ),
        max_leaves=12,
    ),
)
STATE: State = {
    "count": np.arange(300, dtype=np.int64),
    "keys": [f"card-{i}" for i in range(300)],
    "open": [{"place": None, "score": 0.5}],
}


@settings(max_examples=200, deadline=None)
@given(tree=_TREES)
def test_what_is_unpacked_is_what_was_packed(tree: State) -> None:
    assert_same(unpack(b"".join(pack(tree))), tree)


def test_the_same_state_makes_the_same_bytes() -> None:
    strided = np.arange(600, dtype=np.int64)[::2] // 2
    assert pack(STATE) == pack({**STATE, "count": strided})


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([None]), object()])
def test_only_plain_values_are_packed(value: object) -> None:
    with pytest.raises(DataError, match="a state holds"):
        pack({"value": value})


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_snapshot_is_refused(share: float) -> None:
    data = b"".join(pack(STATE))
    with pytest.raises(DataError, match="truncated"):
        unpack(data[: int(share * len(data))])


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(place: float, bit: int) -> None:
    data = bytearray(b"".join(pack(STATE)))
    data[int(place * len(data))] ^= 1 << bit
    with pytest.raises(DataError, match="snapshot"):
        unpack(bytes(data))


def test_what_is_wrong_is_named() -> None:
    data = b"".join(pack(STATE))
    harmed = bytearray(data)
    harmed[-1] ^= 1
    newer = data[:8] + struct.pack(">H", 99) + data[10:]
    for wrong, why in {
        bytes(harmed): "checksum",
        newer: "version 99 of a newer",
        data + b"x": "something follows",
        b"PAR1" + data: "begins with",
    }.items():
        with pytest.raises(DataError, match=why):
            unpack(wrong)
