"""Windows as tensors: what is accepted, what is refused, and that cutting loses nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import WindowBatch, as_batch, events
from detectors.checks.subject import join, small
from schemas.errors import DataError, ShapeError


def test_records_become_windows_of_one_step() -> None:
    batch = as_batch(np.arange(6).reshape(3, 2))
    assert (len(batch), batch.steps, batch.features, batch.fields) == (3, 1, 2, 0)
    assert batch.num.dtype == torch.float32
    assert batch.mask.all()


def test_a_batch_passes_through() -> None:
    batch = small("sequence")
    assert as_batch(batch) is batch


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "bool"])
def test_every_numeric_dtype_is_taken(dtype: str) -> None:
    assert as_batch(np.ones((2, 3, 4), dtype=dtype)).num.dtype == torch.float32


def test_the_callers_array_is_copied() -> None:
    array = np.zeros((4, 2), dtype=np.float32)
    tensor = torch.zeros(4, 2)
    batches = [as_batch(array), as_batch(tensor)]
    array[:], tensor[:] = 1, 1
    assert not any(batch.num.any() for batch in batches)


@pytest.mark.parametrize("windows", [np.zeros(3), np.zeros((1, 2, 3, 4)), [[["x"]]]])
def test_other_arrays_are_refused(windows: object) -> None:
    with pytest.raises(DataError):
        as_batch(windows)  # type: ignore[arg-type]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ShapeError, match="must agree"):
        WindowBatch(torch.zeros(2, 3, 1), torch.zeros(2, 3, 0).long(), torch.ones(2, 4).bool())
    with pytest.raises(ShapeError, match="vocab"):
        WindowBatch(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1).long(), torch.ones(2, 3).bool())


def test_events_are_padded_by_their_lengths() -> None:
    batch = events([[2, 3, 4], [5, 6, 7]], [3, 1], vocab=8)
    assert batch.cat[:, :, 0].tolist() == [[2, 3, 4], [5, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]


@pytest.mark.parametrize("ids", [[2, 3], [[2, 8]], [[-1, 2]]])
def test_other_ids_are_refused(ids: list[object]) -> None:
    with pytest.raises(DataError):
        events(np.array(ids), vocab=8)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 50))
def test_chunks_join_to_the_whole(size: int, rows: int) -> None:
    batch = small("sequence")[:rows]
    parts = list(batch.chunks(size))
    assert all(0 < len(part) <= size for part in parts)
    assert sum(len(part) for part in parts) == len(batch)
    if parts:
        assert torch.equal(join(parts).num, batch.num)


def test_selecting_keeps_windows_whole() -> None:
    batch = small("sequence")
    chosen = batch[torch.tensor([3, 1])]
    assert torch.equal(chosen.cat, batch.cat[[3, 1]])
    assert chosen.vocab == batch.vocab
    assert len(batch[batch.lengths == batch.steps]) == int((batch.lengths == batch.steps).sum())


def test_padding_adds_masked_steps() -> None:
    batch = small("series").padded(9)
    assert batch.steps == 9
    assert torch.equal(batch.lengths, small("series").lengths)


def test_the_same_device_costs_no_copy() -> None:
    batch = small("record")
    assert batch.to("cpu") is batch
