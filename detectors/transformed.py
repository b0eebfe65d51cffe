"""What detectors share that tell by which transformation a window was changed."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.inputs import RecordInput
from detectors.loops.stage import Count, Positive, Run, Share, Training
from detectors.nets.transforms import (
    SEGMENT_ORDERS,
    RecordClassifier,
    TimeClassifier,
    exchanged_ids,
)
from detectors.network import ExplainedNetwork

SURE = 0.01
"""Surprise in nats below which an answer is sure enough: more training gains nothing on normal
windows, and makes the network sure of anomalies too."""

ORDERS = Annotated[int, msgspec.Meta(ge=1, le=len(SEGMENT_ORDERS))]


class TransformTraining(Training, frozen=True, kw_only=True):
    """Settings of every classifier of transformations.

    Attributes
    ----------
    hidden
        Width of the network.
    orders
        Orders of the four segments of a window, the given one included; with reversal and
        exchanged halves of the columns there are four times as many transformations.
    maps
        Random affine maps of a record.
    """

    hidden: Count = 32
    orders: ORDERS = 2
    maps: Annotated[int, msgspec.Meta(ge=2)] = 16
    epochs: Count = 15
    steps_per_epoch: Count = 50
    batch: Count = 64
    learning_rate: Positive = 3e-3
    patience: Count = 2
    trim: Share = 0.01


class TransformationClassifier(ExplainedNetwork):
    """Learns which of ``n`` transformations a window went through; subclasses score its answers.

    Windows over time are reversed, cut in segments that change places, and have their halves of
    columns exchanged, or bare events their ids by others that are about as frequent; records go
    through random affine maps.
    """

    chunk = 256  # every window becomes as many as there are transformations
    _net: TimeClassifier | RecordClassifier

    def _new_input(self, data: WindowBatch) -> RecordInput:
        return RecordInput.fit(data, codes=data.features == 0)

    def _pretrain(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        one_hot = early.vocab == (self._input.columns + 1,) and early.features == 0
        if one_hot and isinstance(self._net, TimeClassifier):
            ids = early.cat[:, :, 0][early.mask]
            counts = torch.bincount(ids, minlength=self._input.columns + 1)
            self._net.transforms.exchange(exchanged_ids(counts))

    def _network(self) -> nn.Module:
        shape, config, columns = self._fitted(), self.config, self._input.columns
        if shape.steps == 1:
            return RecordClassifier(columns, config.hidden, config.maps)
        return TimeClassifier(columns, shape.steps, config.hidden, config.orders)

    def _log_answers(self, columns: Tensor, mask: Tensor) -> Tensor:
        """``[B, n, n]``: for each transformation of ``[B, T, E]``, log-probabilities of all."""
        logits: Tensor = self._net(columns, mask)
        return logits.log_softmax(dim=-1)

    def _loss(self, data: WindowBatch) -> Tensor:
        return surprise(self._log_answers(self._input(data), data.mask))

    def _held_out_loss(self, data: WindowBatch) -> Tensor:
        return self._loss(data).clamp(min=SURE)


def surprise(log_answers: Tensor) -> Tensor:
    """Mean of ``-log y_j`` of the true transformation over all ``j``, ``[B, n, n]`` to ``[B]``."""
    return -torch.diagonal(log_answers, dim1=1, dim2=2).mean(dim=-1)
