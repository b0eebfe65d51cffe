"""Internal contrastive learning: parts of a normal record tell which of them belong together."""

from __future__ import annotations

from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.stage import Count, Positive, Share, Training
from detectors.nets.contrast import PartsContrast
from detectors.network import ExplainedNetwork
from schemas.errors import DataError


class InternalContrast(ExplainedNetwork):
    """How badly the parts of a record are told apart by what is left of it.

    A record of ``D`` columns has ``m = D - width + 1`` parts ``a_j`` of neighbouring columns, each
    with its rest ``b_j``. Two networks map both to vectors of length 1 that should meet where part
    and rest belong together: a record scores the mean over ``j`` of
    ``-log(exp(F(b_j) . G(a_j) / t) / sum_l exp(F(b_j) . G(a_l) / t))``, which training minimises.
    Negatives are the other parts of the same record. Which columns are neighbours is arbitrary, so
    that several pairs of networks each read them in a random order of their own, and the losses are
    averaged.

    Shapes
    ------
    Records, windows ``[B, T, F + C]`` of one step with ``D`` columns; about
    ``m hidden (width + 2 units) + m² units`` multiply-adds a record and order.

    Notes
    -----
    A part is known from its rest only where columns depend on each other; independent columns give
    nothing to learn. The loss is bounded: scores of far outliers level off.

    From the paper: pairs, loss, score, widths of the parts, orders. Adaptations: networks of all
    orders lie in one tensor; they have two layers, no normalisation over batches, and a milder
    ``t``; categories become columns. Explanations integrate the gradient of the score on the way
    to the record from the nearest of ``EXAMPLES`` records of the fit.

    References
    ----------
    Shenkar and Wolf 2022, *Anomaly detection for tabular data with internal contrastive learning*;
    Sundararajan et al. 2017, *Axiomatic attribution for deep networks* (explanations). Survey: Pang
    et al. 2020, section 5.1.4 (self-supervised classification); the method came after it.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        width
            Columns of a part; if left out 2 of up to 40, 10 of up to 160, all but 150 of more.
        orders
            Random orders of the columns.
        hidden, units
            Widths of the networks and of the vectors.
        temperature
            ``t``.
        """

        width: Count | None = None
        orders: Count = 4
        hidden: Count = 64
        units: Count = 32
        temperature: Positive = 0.1
        epochs: Count = 50
        trim: Share = 0.01

    caps = Capabilities(
        name="icl",
        section="Shenkar and Wolf 2022",
        supervision="semi-supervised",
        kinds=("record",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="small",
        loop="prediction",
        sources=("SUBSPACE",),
    )
    chunk = 128
    _net: PartsContrast

    def _network(self) -> nn.Module:
        config, columns = self.config, self._input.width
        if columns < 2:
            msg = f"{self.caps.name}: contrasts the parts of a record; it needs 2 columns, got 1"
            raise DataError(msg)
        width = min(config.width or part_width(columns), columns - 1)
        return PartsContrast(
            config.orders, columns, width, config.hidden, config.units, config.temperature
        )

    def _loss(self, data: WindowBatch) -> Tensor:
        return self._score_columns(self._input(data), data.mask)

    def _score_columns(self, columns: Tensor, mask: Tensor) -> Tensor:
        losses: Tensor = self._net(self._flat(columns)).mean(dim=(0, 2))
        return losses


def part_width(columns: int) -> int:
    """Columns of a part of a record of ``columns``: few of few, and at most 151 parts of many."""
    if columns <= 40:
        return 2
    return 10 if columns <= 160 else columns - 150
