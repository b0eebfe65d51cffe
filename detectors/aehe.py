"""AEHE: an event is anomalous whose values, known by the company they keep, do not go together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.event_likelihood import EventLikelihood, LikelihoodTraining
from detectors.loops.stage import Count, Positive, Weight
from detectors.nets.interaction import count_values
from detectors.nets.topology import TopologyInteraction, count_neighbours, second_order


class EventEmbedding(EventLikelihood):
    """``-tau(x)`` with ``tau(x) = sum over pairs i < j of w_ij z_i . z_j + c`` and ``w_ij >= 0``.

    The vector ``z`` of a value is not learned for itself: an encoder makes it of the value's row of
    second-order neighbours, how often a path of two events leads from it to each other value. An
    autoencoder keeps those rows legible in the vectors, by an error that counts entries above 0
    ``emphasis`` times. The numbers of an event, such as bytes and packets, are a node of their own,
    whose vector another network makes; it pairs with all values. The likelihood
    ``p(x) ~ exp(tau(x))`` is learned by telling events from imitations, in which one field is
    filled anew by the frequency of its values, or the numbers are those of another event.

    Shapes
    ------
    Events ``[B, T, F + C]`` of at least two categories and any numbers, of which each step counts
    by itself and a window scores their mean; about ``C² d + F H`` multiply-adds a step. State of
    512 numbers for each value.

    Notes
    -----
    Values that resemble each other in what they occur with are close without ever having met, and a
    value that ``partial_fit`` shows for the first time has a place at once. A new value has an
    empty row, and pays a surcharge.

    Explanations blame each pair for how far its term lies below what it usually is, half on either
    node. The share of the numbers is spread over them by how far each lies from the median.

    Adaptations: the paper reads paths of a graph with attributes on each node; here a path is an
    event, whose fields are the types of its nodes, and attributes belong to the event. Rows of
    neighbours are counted from the events, hashed to 512 columns, and forget the past in updates;
    entries are square roots of shares and one logarithm of how many there are, and their error is a
    mean. New values and the stop of training are as in the
    other likelihoods of events.

    References
    ----------
    Fan et al. 2018, *Abnormal event detection via heterogeneous information network embedding*;
    Wang et al. 2016, *Structural deep network embedding* (the emphasis). Survey: Pang et al. 2020,
    section 6.3, equations 41-44.
    """

    class Config(LikelihoodTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every event likelihood.

        Attributes
        ----------
        hidden
            Width ``H`` of the hidden layers.
        topology
            Weight of the error of the rows of neighbours.
        emphasis
            Factor on the errors of entries above 0.
        """

        hidden: Count = 64
        topology: Weight = 0.1
        emphasis: Positive = 10.0
        learning_rate: Positive = 3e-3

    caps = Capabilities(
        name="aehe",
        section="6.3",
        supervision="unsupervised",
        kinds=("catrec", "path"),
        min_fields=2,
        attributes=True,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="tiny",
        loop="likelihood",
        sources=("PATHS",),
    )
    _net: TopologyInteraction

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        values = sum(data.vocab)
        self._neighbours = count_neighbours(torch.zeros_like(data.cat[:0, 0]), values)
        super()._fit(data, labels, budget)

    def _count(self, data: WindowBatch) -> Tensor:
        # a value's vector comes from its neighbours, whether or not training shows it
        return count_values(data.cat[data.mask], data.vocab)

    def _meet(self, data: WindowBatch, fresh: Tensor, fade: Tensor) -> None:
        rows = self._values.rows(data.cat[data.mask])
        newer = count_neighbours(rows, len(self._neighbours))
        self._neighbours = fade.float() * self._neighbours + newer
        self._place()

    def _place(self) -> None:
        self._net.move_to(second_order(self._neighbours, self._values.start))

    def _besides(self) -> Callable[[Tensor], Tensor]:
        def rebuilding(rows: Tensor) -> Tensor:
            errors = self._net.rebuilding(rows, self.config.emphasis)
            weighed: Tensor = self.config.topology * errors.sum(dim=1)
            return weighed

        return rebuilding

    def _settle(self) -> None:
        self._place()
        self._net.settle()

    def _by_field(self, shares: Tensor, data: WindowBatch) -> Tensor:
        if not data.features:
            return shares
        far = data.num.abs()
        part = far / far.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(far.dtype).tiny)
        return torch.cat([shares[..., :1] * part, shares[..., 1:]], dim=-1)

    def _groups(self) -> list[dict[str, object]]:
        return [{"params": list(self._net.parameters())}]

    def _build(self) -> TopologyInteraction:
        shape, config = self._fitted(), self.config
        net = TopologyInteraction(len(shape.vocab), shape.features, config.width, config.hidden)
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "neighbours": self._neighbours}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._neighbours = state["neighbours"]
        super()._restore(state)
