"""The ConvLSTM autoencoder: maps by hand, gates that remember, rows that name a feature."""

from functools import cache

import numpy as np
import pytest
import torch

from detectors import Budget
from detectors.checks.sense import ranking
from detectors.checks.sources import sample
from detectors.checks.subject import small
from detectors.convlstm_ae import ConvLstmAutoencoder
from detectors.nets.signature import ConvLstmCell, MapAutoencoder, signature_maps
from schemas.errors import DataError


@cache
def learned() -> ConvLstmAutoencoder:
    """A detector of WAVES that others may read and not change."""
    detector = ConvLstmAutoencoder(scales=(12, 24), learning_rate=1e-2)
    return detector.fit(sample("WAVES").train, budget=Budget(steps=200))


def test_maps_are_mean_products_of_the_latest_real_steps() -> None:
    steps = torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([12, 7, 1])
    mask = torch.arange(12) < lengths.unsqueeze(1)
    steps = steps * mask.unsqueeze(-1)
    maps = signature_maps(steps, mask, (2, 5), 3)
    assert maps.shape == (3, 3, 2, 4, 4)
    for row, length in enumerate(lengths.tolist()):
        for i in range(3):
            end = -(-length * (i + 1) // 3)
            for s, scale in enumerate((2, 5)):
                x = steps[row, max(0, end - scale) : end]
                torch.testing.assert_close(maps[row, i, s], x.T @ x / len(x))


def test_exchanged_features_change_their_rows_and_columns_most() -> None:
    normal = sample("WAVES").normal
    swapped = normal.num.clone()
    swapped[:, :, [0, 1]] = swapped[:, :, [1, 0]]
    before = signature_maps(normal.num, normal.mask, (12, 24), 1)
    after = signature_maps(swapped, normal.mask, (12, 24), 1)
    change = (after - before).abs().mean(dim=(0, 1, 2))
    assert float(change[0, 1]) == pytest.approx(0.0, abs=1e-6)  # a product has no order
    rows = change.sum(dim=1)
    assert float(rows[:2].min()) > float(rows[2:].max())
    shares = learned().score(swapped, explain="full").feature
    assert shares is not None
    assert set(shares.mean(dim=(0, 1)).topk(2).indices.tolist()) == {0, 1}


@torch.no_grad()
def test_the_cell_by_hand() -> None:
    torch.manual_seed(0)
    cell = ConvLstmCell(2, 3)
    inputs, output, memory = (
        torch.randn(1, 2, 1, 1),
        torch.randn(1, 3, 1, 1),
        torch.randn(1, 3, 1, 1),
    )
    assert cell.gates.bias is not None
    assert cell.gates.bias.tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6
    centre = cell.gates.weight[:, :, 1, 1]  # around a single cell there is nothing but zeros
    gates = centre @ torch.cat([inputs, output], dim=1).flatten() + cell.gates.bias
    write, keep, read, new = gates.chunk(4)
    expected = keep.sigmoid() * memory.flatten() + write.sigmoid() * new.tanh()
    found_output, found_memory = cell(inputs, (output, memory))
    torch.testing.assert_close(found_memory.flatten(), expected)
    torch.testing.assert_close(found_output.flatten(), read.sigmoid() * expected.tanh())


@pytest.mark.parametrize("columns", [1, 2, 5, 6, 9])
def test_maps_of_any_size_come_back_as_large_and_symmetric(columns: int) -> None:
    copy = MapAutoencoder(3, 4, 2)(torch.randn(2, 5, 3, columns, columns))
    assert copy.shape == (2, 3, columns, columns)
    assert torch.equal(copy, copy.transpose(-1, -2))


def test_the_order_of_the_maps_matters() -> None:
    torch.manual_seed(0)
    net, maps = MapAutoencoder(2, 4, 3), torch.randn(1, 4, 2, 5, 5)
    assert not torch.allclose(net(maps), net(maps[:, [1, 0, 2, 3]]))


def test_scales_are_cut_to_the_windows_of_the_fit() -> None:
    detector = ConvLstmAutoencoder(scales=(3, 10, 60)).fit(small("series"), budget=Budget(steps=2))
    assert detector._scales() == (3, 6)


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(DataError, match="64"):
        ConvLstmAutoencoder().fit(np.zeros((10, 4, 65)))


def test_anomalous_windows_score_above_normal_ones() -> None:
    data, detector = sample("WAVES"), learned()
    assert ranking(detector.score(data.normal).score, detector.score(data.anomalous).score) > 0.8
