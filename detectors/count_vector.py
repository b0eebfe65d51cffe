"""Count vectors of event sessions: which events, how often, how many in all.

On repetitive logs this beats most sequence models, and it costs next to nothing.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.batch import NEW, PAD, WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.scores import Explain, Scores
from schemas.errors import DataError

LEAST_WEIGHT = 0.1
"""Nats that a change in the most variable event still counts, so that no event is ignored."""

REPETITIVE = 0.9
"""Share of sessions with an exact twin from which on ``tolerance`` applies. Among sessions that
do not repeat, every distance is positive and a dead zone would only destroy their order."""

ENOUGH_UNIQUE = 30
"""Unique sessions below which their distances say nothing about what else may turn up."""

BLOCK = 512
"""Rows of the distance matrix computed at once: 16 MB at 4,096 remembered vectors."""


class CountVector(Detector):
    """Distance of a session's event counts to the nearest counts seen at fit.

    A session is reduced to how often each event occurs. An event weighs by how surprising a
    deviation from its usual (median) count is, ``-log`` of the share of sessions that deviate;
    an event that no session had weighs ``log V`` more, because it stands for all that may come.
    A change is measured in doublings, ``log2(1 + count)``, and the distance is

    ``d(x, y)^2 = sum over events of (weight * change)^2``.

    To the nearest remembered vector is added, squared likewise, by how many doublings the length
    lies outside the lengths of the fit. A vector that was seen scores exactly 0. Where nearly
    all sessions repeat, so does every vector about as close to a known one as the fit's own
    unique sessions are to the rest: rare but harmless combinations keep turning up, and a
    stretch of history without any must not make each of them an alarm.

    Attribution goes to the steps whose event is new or occurs more often than in the nearest
    vector; what is missing has no step, so that shares can add up to less than the score.

    Settings
    --------
    memory
        Distinct count vectors remembered, the most frequent first.
    tolerance
        Where sessions repeat, the distance that counts as none, in medians of the distances of
        the fit's unique sessions to the rest; 0 tells everything apart.
    transitions
        Whether order counts: each pair of known events that never followed each other in the fit
        adds as much as one doubling of the length. For logs of one thread at a time; where lines
        of several are mixed, any order turns up.

    Shapes
    ------
    Sessions ``cat [B, T, 1]`` without numbers, of any length ``T``; state ``memory * V``. Cost is
    one table look-up per event, and ``memory * V`` multiply-adds per *distinct new* vector.

    References
    ----------
    Landauer, Skopik and Wurzenberger 2024, *A critical review of common log data sets used for
    evaluation of sequence-based anomaly detection techniques* (new events, lengths, event
    count vector clustering, new 2-grams). Survey: Pang et al. 2020, section 5.2.1, distance-based
    measures. Adaptations: weights by surprise, logarithmic counts, one continuous score, tolerance.
    """

    caps = Capabilities(
        name="count_vector",
        section="baseline: Landauer et al. 2024",
        supervision="semi-supervised",
        kinds=("events",),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        cost="tiny",
        loop="statistics",
        sources=("SESSIONS",),
    )

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Settings; see the class."""

        memory: Annotated[int, msgspec.Meta(ge=1)] = 4096
        tolerance: Annotated[float, msgspec.Meta(ge=0)] = 2.0
        transitions: bool = False

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        if data.fields != 1 or data.features:
            msg = (
                f"{self.caps.name}: counts the events of one category field; got {data.fields} "
                f"category fields and {data.features} numbers; leave the others out"
            )
            raise DataError(msg)
        vocab = data.vocab[0]
        # sums of random 64-bit numbers stand for count vectors: equal sums, equal counts
        self._codes = torch.randint(-(2**63), 2**63 - 1, (vocab,)).to(data.cat.device)
        self._codes[PAD] = 0
        self._vectors = data.cat.new_zeros(0, vocab)
        self._frequency = data.cat.new_zeros(0)
        self._followed = data.cat.new_zeros(0)
        self._add(data)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._add(data)

    def _add(self, data: WindowBatch) -> None:
        """Add the sessions of ``data`` to the remembered vectors and derive weights anew."""
        first, which = self._distinct(data)
        frequency = torch.bincount(which, minlength=len(first))
        chosen = self._most_frequent(frequency)
        vectors = torch.cat([self._vectors, self._count(data[first[chosen]])])
        frequency = torch.cat([self._frequency, frequency[chosen]])
        keys, which = torch.unique((vectors * self._codes).sum(dim=1), return_inverse=True)
        merged = vectors.new_zeros(len(keys), vectors.shape[1])
        merged[which] = vectors  # rows of one key are equal: whichever is written last is right
        counted = frequency.new_zeros(len(keys)).scatter_add_(0, which, frequency)
        chosen = self._most_frequent(counted)
        self._vectors, self._frequency = merged[chosen], counted[chosen]
        self._weigh(self._vectors, self._frequency)
        self._derive()
        self._tolerated = self._tolerance()
        if self.config.transitions:
            pairs, real = self._pairs(data)
            self._followed = torch.unique(torch.cat([self._followed, pairs[real]]))

    def _most_frequent(self, frequency: Tensor) -> Tensor:
        """Rows to remember; their order is that of random keys, so ties are broken at random."""
        order = frequency.argsort(descending=True, stable=True)
        return order[: self.config.memory].sort().values

    def _weigh(self, vectors: Tensor, frequency: Tensor) -> None:
        """Set the weight of each event, and the range of session lengths."""
        total = frequency.sum()
        ordered, order = vectors.sort(dim=0)
        middle = (frequency[order].cumsum(dim=0) * 2 < total).sum(dim=0, keepdim=True)
        deviates = ((vectors != ordered.gather(0, middle)) * frequency.unsqueeze(1)).sum(dim=0)
        weight = torch.log((total + 2) / (deviates + 1).double()).clamp(min=LEAST_WEIGHT)
        weight[vectors.sum(dim=0) == 0] += math.log(vectors.shape[1])
        weight[PAD] = 0.0
        self._weight = weight
        lengths = _doublings(vectors.sum(dim=1))
        self._shortest, self._longest = lengths.min(), lengths.max()
        self._length_weight = torch.log(total + 2.0).double()

    def _tolerance(self) -> Tensor:
        """Return the distance that counts as none."""
        single = self._frequency == 1
        if not ENOUGH_UNIQUE <= single.sum() <= (1 - REPETITIVE) * self._frequency.sum():
            return torch.zeros_like(self._longest)
        _, squares = self._nearest(self._points[single], own=single.nonzero().squeeze(1))
        return squares.sqrt().median() * float(self.config.tolerance)

    def _derive(self) -> None:
        self._keys = (self._vectors * self._codes).sum(dim=1)  # ascending, from torch.unique
        self._points = _doublings(self._vectors) * self._weight

    def _distinct(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return one row ``[U]`` for each distinct count vector, and which ``[B]`` a row has."""
        keys = self._codes[data.cat[:, :, 0]].sum(dim=1)
        unique, which = torch.unique(keys, return_inverse=True)
        first = torch.zeros_like(unique)
        return first.scatter_(0, which, torch.arange(len(which), device=first.device)), which

    def _count(self, data: WindowBatch) -> Tensor:
        """Count vectors ``[B, V]``; padding is not counted."""
        vocab = len(self._codes)
        row = torch.arange(len(data), device=data.cat.device).unsqueeze(1) * vocab
        counts = torch.bincount((row + data.cat[:, :, 0]).flatten(), minlength=len(data) * vocab)
        counts = counts.view(len(data), vocab)
        counts[:, PAD] = 0
        return counts

    def _pairs(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Code each step with the one before it, ``[B, T - 1]``, and mark pairs of known events."""
        before, after = data.cat[:, :-1, 0], data.cat[:, 1:, 0]
        real = data.mask[:, :-1] & data.mask[:, 1:] & (before != NEW) & (after != NEW)
        return before * len(self._codes) + after, real

    def _unfollowed(self, data: WindowBatch) -> Tensor:
        """Mark the steps ``[B, T]`` whose event never followed the one before it in the fit."""
        found = torch.zeros_like(data.mask)
        if len(self._followed):
            pairs, real = self._pairs(data)
            place = torch.searchsorted(self._followed, pairs).clamp(max=len(self._followed) - 1)
            found[:, 1:] = real & (self._followed[place] != pairs)
        return found

    def _nearest(self, points: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Index ``[U]`` of the nearest remembered point and the squared distance to it.

        ``own`` names for each point a remembered one to leave out.
        """
        found = [torch.zeros(0, dtype=torch.int64, device=points.device)]
        norms = self._points.square().sum(dim=1)
        for start in range(0, len(points), BLOCK):
            part = points[start : start + BLOCK]
            squares = torch.addmm(norms, part, self._points.T, alpha=-2)
            if own is not None:
                squares.scatter_(1, own[start : start + BLOCK].unsqueeze(1), torch.inf)
            found.append(squares.argmin(dim=1))
        index = torch.cat(found)
        return index, (points - self._points[index]).square().sum(dim=1)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        first, which = self._distinct(data)
        vectors = self._count(data[first])
        keys = (vectors * self._codes).sum(dim=1)
        place = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        new = (self._keys[place] != keys).nonzero().squeeze(1)
        points = _doublings(vectors[new]) * self._weight
        nearest, squares = self._nearest(points)
        length = _doublings(vectors[new].sum(dim=1))
        outside = (length - self._longest).clamp(min=0) + (self._shortest - length).clamp(min=0)
        squares = squares + (self._length_weight * outside).square()
        distance = (squares.sqrt() - self._tolerated).clamp(min=0)
        score = points.new_zeros(len(first)).index_copy_(0, new, distance)[which]
        disorder = self._length_weight.square() * self._unfollowed(data)
        total = (score.square() + disorder.sum(dim=1)).sqrt()
        if explain == "none":
            return Scores(total.float())
        surplus = (points - self._points[nearest]).clamp(min=0).square() / vectors[new].clamp(min=1)
        surplus *= (distance / squares.clamp(min=torch.finfo(torch.float32).tiny)).unsqueeze(1)
        share = torch.zeros_like(vectors, dtype=surplus.dtype).index_copy_(0, new, surplus)
        step = share[which.unsqueeze(1), data.cat[:, :, 0]] * score.unsqueeze(1) + disorder
        step = (step / total.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)).float()
        return Scores(total.float(), step, step.unsqueeze(2).clone())

    def _state(self) -> dict[str, Tensor]:
        return {
            "codes": self._codes,
            "vectors": self._vectors,
            "frequency": self._frequency,
            "weight": self._weight,
            "followed": self._followed,
            "lengths": torch.stack([self._shortest, self._longest, self._length_weight]),
            "tolerated": self._tolerated,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._codes, self._vectors = state["codes"], state["vectors"]
        self._frequency, self._weight = state["frequency"], state["weight"]
        self._followed = state["followed"]
        self._shortest, self._longest, self._length_weight = state["lengths"]
        self._tolerated = state["tolerated"]
        self._derive()


def _doublings(counts: Tensor) -> Tensor:
    """``log2(1 + count)`` in float64: known vectors must be at distance 0, not at rounding."""
    return torch.log2(1.0 + counts.double())
