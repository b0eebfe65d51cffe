"""Dense columns of mixed windows: weights of categories, padding, and the way back to fields."""

import math

import pytest
import torch
from torch import Tensor

from detectors.batch import NEW, WindowBatch
from detectors.checks.subject import small
from detectors.detector import Shape
from detectors.inputs import FLIP, NEW_FLIP, ONE_HOT_MAX, RecordInput
from schemas.errors import ShapeError


def categories(ids: list[int], vocab: int) -> WindowBatch:
    """Records of one category."""
    cat = torch.tensor(ids).view(-1, 1, 1)
    return WindowBatch(torch.zeros(len(ids), 1, 0), cat, torch.ones(len(ids), 1).bool(), (vocab,))


def columns_of(reader: RecordInput, ids: list[int], vocab: int) -> Tensor:
    return reader(categories(ids, vocab))[:, 0]


def test_numbers_alone_pass_unchanged() -> None:
    data = small("series")
    reader = RecordInput.fit(data)
    assert reader.columns == 4
    assert torch.equal(reader(data), data.num)


def test_columns_are_numbers_then_a_field_after_the_other() -> None:
    data = small("mixed")
    reader = RecordInput.fit(data)
    assert reader.columns == 3 + 8 + 1
    assert reader.surprisals == [False] * 11 + [True]
    dense = reader(data)
    assert dense.shape == (len(data), 1, 12)
    assert dense.dtype == torch.float32
    assert torch.equal(dense[:, :, :3], data.num)


def test_going_from_one_id_to_another_weighs_one_squared() -> None:
    reader = RecordInput.fit(categories([2, 3, 4], 6))
    two, three = columns_of(reader, [2, 3], 6)
    assert float((two - three).square().sum()) == pytest.approx(1.0)
    assert float(two.max()) == pytest.approx(FLIP)


def test_ids_without_an_example_are_new_and_new_is_farther_than_any_flip() -> None:
    reader = RecordInput.fit(categories([2, 3, 4], 6))
    new, unseen, known = columns_of(reader, [NEW, 5, 2], 6)
    assert torch.equal(new, unseen)
    assert float(new.max()) == NEW_FLIP
    assert float((new - known).norm()) > 3 * 1.0


def test_padding_is_zero_in_every_column() -> None:
    data = small("sequence")
    reader = RecordInput.fit(data)
    assert not reader(data)[~data.mask].any()
    big = RecordInput.fit(categories([2, 3], ONE_HOT_MAX + 1))
    assert not columns_of(big, [0], ONE_HOT_MAX + 1).any()


def test_rare_values_of_a_large_vocabulary_are_higher_and_new_ones_highest() -> None:
    ids = [2] * 60 + [3] * 30 + [4] * 9 + [5]
    reader = RecordInput.fit(categories(ids, 100))
    assert reader.columns == 1
    assert reader.surprisals == [True]
    surprisals = columns_of(reader, [2, 3, 4, 5, NEW], 100).flatten().tolist()
    assert surprisals == sorted(surprisals)
    assert len(set(surprisals)) == 5
    assert columns_of(reader, [99], 100).item() == surprisals[-1]


def test_equally_frequent_values_of_a_large_vocabulary_look_alike() -> None:
    ids = torch.randint(2, 1000, (50_000,), generator=torch.Generator().manual_seed(0))
    reader = RecordInput.fit(categories(ids.tolist(), 1000))
    seen = columns_of(reader, list(range(2, 1000)), 1000)
    assert float(seen.abs().max()) < 1.0


@pytest.mark.parametrize(("vocab", "columns"), [(ONE_HOT_MAX, ONE_HOT_MAX - 1), (65, 1)])
def test_the_form_changes_where_the_vocabulary_gets_large(vocab: int, columns: int) -> None:
    assert RecordInput.fit(categories([2, 3], vocab)).columns == columns


def test_masked_steps_teach_nothing() -> None:
    data = small("sequence")
    filled = WindowBatch(
        data.num, data.cat.masked_fill(~data.mask.unsqueeze(2), 7), data.mask, data.vocab
    )
    only, other = (RecordInput.fit(batch).state("") for batch in (data, filled))
    assert all(torch.equal(only[name], other[name]) for name in only)


def test_an_empty_vocabulary_sample_gives_finite_columns() -> None:
    for vocab in (5, 90):
        none = categories([2], vocab)
        none = WindowBatch(none.num, none.cat, torch.zeros(1, 1).bool(), none.vocab)
        reader = RecordInput.fit(none)
        assert columns_of(reader, [0, 1, 2], vocab).isfinite().all()


def test_flattening_pads_on_the_right() -> None:
    data = small("sequence")
    reader = RecordInput.fit(data.padded(8))
    flat = reader.flatten(data)
    assert flat.shape == (len(data), 8 * reader.columns)
    assert torch.equal(flat, reader.flatten(data.padded(8)))
    assert torch.equal(flat.view(len(data), 8, -1)[:, :6], reader(data))
    with pytest.raises(ShapeError, match="6 steps, at most 5"):
        RecordInput.fit(data.padded(5)).flatten(data)


@pytest.mark.parametrize("name", ["record", "mixed", "series", "sequence", "events", "catrec"])
def test_attribution_returns_to_fields_and_loses_nothing(name: str) -> None:
    data = small(name)
    reader = RecordInput.fit(data)
    share = reader(data).abs()
    fields = reader.attribute(share)
    assert fields.shape == (*share.shape[:2], data.features + data.fields)
    torch.testing.assert_close(fields.sum(dim=2), share.sum(dim=2))
    torch.testing.assert_close(fields[:, :, : data.features], data.num.abs())


def test_state_rebuilds_the_reader() -> None:
    data = small("mixed")
    reader = RecordInput.fit(data)
    shape = Shape(data.steps, data.features, data.vocab)
    rebuilt = RecordInput.from_state(reader.state("in."), "in.", shape)
    assert torch.equal(rebuilt(data), reader(data))
    with pytest.raises(KeyError, match="table"):
        RecordInput.from_state({}, "in.", shape)


def test_surprisal_of_a_new_value_counts_the_vocabulary() -> None:
    small_vocab, large_vocab = (
        columns_of(RecordInput.fit(categories([2] * 50 + [3] * 50, vocab)), [NEW], vocab)
        for vocab in (100, 400)
    )
    assert float(large_vocab - small_vocab) == pytest.approx(math.log(4), abs=1e-3)


def test_codes_tell_the_values_of_a_large_vocabulary_apart() -> None:
    torch.manual_seed(0)
    vocab = 10 * ONE_HOT_MAX
    reader = RecordInput.fit(categories(list(range(2, vocab - 1)), vocab), codes=True)
    known = columns_of(reader, list(range(2, 100)), vocab)
    distances = torch.pdist(known).square()
    assert float(distances.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(distances.min()) > 0.3
    padding, new, unseen = columns_of(reader, [0, NEW, vocab - 1], vocab)
    assert torch.equal(padding, torch.zeros_like(padding))
    assert torch.equal(new, unseen)
    assert float(new.norm()) == pytest.approx(NEW_FLIP)
    few = RecordInput.fit(categories([2, 3], 9), codes=True)
    assert torch.equal(few.tables[0], RecordInput.fit(categories([2, 3], 9)).tables[0])


def test_rows_come_apart_again() -> None:
    data = small("mixed", windows=9)
    reader = RecordInput.fit(data.padded(3))
    rows = reader.flatten(data)
    assert torch.equal(reader.unflatten(rows, data), reader(data))
