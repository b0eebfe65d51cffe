"""NetWalk: an edge between entities that never walk together is anomalous."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.loops.batches import in_random_order, split
from detectors.loops.clustering import kmeans
from detectors.loops.likelihood import Unigrams, fading, show_new_rows
from detectors.loops.reservoir import absorb, slots_of_sample
from detectors.loops.stage import Count, Positive, Run, Stage, Training, Weight, gentle
from detectors.loops.training import train
from detectors.nets.interaction import ValueTable, count_values, halved
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

INITIAL = 0.3
"""Spread of the embeddings before training."""


class VertexEmbedding(nn.Module):
    """One linear layer over one-hot vertices and one back: a table for each direction."""

    pairs: Tensor

    def __init__(self, rows: int, fields: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.triu_indices(fields, fields, 1), persistent=False)
        self.code = nn.Embedding(rows, width)
        self.decode = nn.Embedding(rows, width)
        for table in (self.code, self.decode):
            nn.init.normal_(table.weight, std=INITIAL)

    def edges(self, rows: Tensor) -> Tensor:
        """Code the edges of walks ``[..., C]`` as ``[..., P, d]``: products of their ends."""
        z = self.code(rows)
        product: Tensor = z[..., self.pairs[0], :] * z[..., self.pairs[1], :]
        return product

    def attraction(self, rows: Tensor) -> Tensor:
        """Mean squared distance ``[...]`` between the vertices of walks ``[..., C]``."""
        z = self.code(rows)
        gaps = z[..., self.pairs[0], :] - z[..., self.pairs[1], :]
        mean: Tensor = gaps.square().sum(dim=-1).mean(dim=-1)
        return mean

    def reconstruction(self, rows: Tensor, wrong: Tensor) -> Tensor:
        """Logistic loss ``[B]`` of telling vertices ``[B, C]`` from others ``[B, k, C]``."""
        z = self.code(rows)
        right = (z * self.decode(rows)).sum(dim=-1)
        others = (z.unsqueeze(1) * self.decode(wrong)).sum(dim=-1)
        return softplus(-right).mean(dim=-1) + softplus(others).mean(dim=2).sum(dim=1)


class NetWalk(Detector):
    """Distance of the edges of an event to the nearest cluster of edges.

    An event is a walk: each of its category fields names an entity, a vertex of the network. Codes
    of vertices that walk together are drawn to each other, while a decoder has to tell each vertex
    from others, without which all codes would fall on one point:

    ``mean over pairs (p, q) of |z_p - z_q|² + gamma * reconstruction``.

    The code of an edge is the product of those of its ends, entry by entry. k-means finds the
    clusters of the edges of each pair of fields. An edge scores its distance to the nearest
    centre, in units of what is usual for its pair of fields; a step scores its worst edge, and a
    window the mean of its steps.

    Shapes
    ------
    Events ``[B, T, C]`` of at least two fields; about ``C² d K / 2`` multiply-adds a step for codes
    of width ``d`` and ``K`` clusters. The events of a window may be those of a graph of entities;
    numbers beside them are not taken.

    Notes
    -----
    A step is blamed on the two ends of each edge, half on either, and on new values. A value that
    training has not shown pays the worst score of the training events on top of the row that stands
    for all new ones.

    ``partial_fit`` trains on new events and on those that are remembered, and finds the clusters
    anew among the latter, a uniform sample of all events seen.

    Adaptations: walks are the events themselves rather than drawn from a graph; the decoder tells
    a vertex from a few others of its field, drawn by their frequency, instead of from all; no
    penalty on the mean activation; scaled distances; new values; frequencies forget the past in
    updates.

    References
    ----------
    Yu et al. 2018, *NetWalk: a flexible deep embedding approach for anomaly detection in dynamic
    networks*. Survey: Pang et al. 2020, section 4.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        width, clusters
            Width ``d`` of a code, and centres for each pair of fields.
        gamma
            Weight of the reconstruction.
        negatives
            Vertices that each vertex is told from.
        memory
            Events remembered.
        horizon
            Events that ``partial_fit`` lets the past weigh at most in the frequencies of values.
        """

        width: Count = 20
        clusters: Count = 10
        gamma: Positive = 1.0
        negatives: Count = 5
        memory: Annotated[int, msgspec.Meta(ge=2)] = 4096
        horizon: Count = 1_000_000
        epochs: Count = 50
        batch: Count = 512
        learning_rate: Positive = 1e-2
        weight_decay: Weight = 1e-5

    caps = Capabilities(
        name="netwalk",
        section="4",
        supervision="unsupervised",
        kinds=("catrec", "path"),
        min_fields=2,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="tiny",
        loop="clustering",
        sources=("PATHS",),
    )
    chunk = 2048

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._counts = self._count(data)
        self._values = ValueTable(data.vocab, self._counts)
        self._net = self._build()
        self._memory = data.cat[data.mask][:0]
        self._seen = 0
        self._learn(data, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        before = self._values
        fade = fading(self._counts, data.fields, self.config.horizon)
        self._counts = fade * self._counts + self._count(data)
        self._values = ValueTable(data.vocab, self._counts)
        fresh = (self._values.known & ~before.known).nonzero().squeeze(1)
        for table in (self._net.code, self._net.decode):
            self._values.start_as_new(table.weight, fresh)
        run = Run.of_update(self.seed, budget, self.report)
        self._learn(data, gentle(self.config), run)

    def _count(self, data: WindowBatch) -> Tensor:
        """``[V]``: how often values occur where training sees them, and so comes to know them."""
        early, _ = split(data)
        return count_values(early.cat[early.mask], data.vocab)

    def _learn(self, data: WindowBatch, settings: Training, run: Run) -> None:
        early, late = (part.cat[part.mask] for part in split(data))
        rows, held_out = (self._values.rows(part) for part in (early, late))
        rows = torch.cat([rows, self._values.rows(self._memory)])
        self._train(rows, held_out, Stage(self._net, settings, run))
        self._remember(data.cat[data.mask])
        self._find_clusters(self._values.rows(self._memory))

    def _train(self, rows: Tensor, held_out: Tensor, stage: Stage) -> None:
        settings, k = stage.settings, self.config.negatives
        unigrams = Unigrams.fit(self._counts, self._values.start)

        def draw(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            for chosen in in_random_order(len(rows), settings, generator, rows.device):
                shown = show_new_rows(rows[chosen], self._values.start, generator)
                yield shown, unigrams.draw(shown, k, generator)

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            told = self._net.reconstruction(*batch)
            total: Tensor = self._net.attraction(batch[0]) + self.config.gamma * told
            return total

        fixed = torch.Generator().manual_seed(stage.run.seed)
        judge = held_out, unigrams.draw(held_out, k, fixed)

        def validate() -> float:
            with torch.no_grad():
                return float(loss(judge).mean())

        train(stage, draw, loss, validate=validate)

    def _remember(self, events: Tensor) -> None:
        """Keep a uniform sample ``[M, C]`` of all events seen."""
        free = self.config.memory - len(self._memory)
        lengths = torch.ones(len(self._memory), dtype=torch.int64, device=events.device)
        self._memory, _ = absorb(
            (self._memory, lengths),
            (events, torch.ones(len(events), dtype=torch.int64, device=events.device)),
            self.config.memory,
            lambda count, room: slots_of_sample((count,), self._seen + min(free, room), self.seed),
        )
        self._seen += len(events)

    def _find_clusters(self, rows: Tensor) -> None:
        with torch.no_grad():
            edges = self._net.edges(rows).unbind(dim=1)
            k = min(self.config.clusters, len(rows))
            self._centres = torch.stack([kmeans(x, torch.ones_like(x), k).centres for x in edges])
            self._usual = torch.ones(len(edges), device=rows.device)
            distances = self._distances(rows)
            self._usual = distances.mean(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
            self._worst = (distances / self._usual).max()

    # -- scoring ----------------------------------------------------------------------------

    def _distances(self, rows: Tensor) -> Tensor:
        """Distances ``[..., P]`` of the edges of ``[..., C]`` to the nearest of their centres."""
        edges = self._net.edges(rows)
        gaps = edges.unsqueeze(-2) - self._centres
        nearest: Tensor = gaps.square().sum(dim=-1).amin(dim=-1).sqrt() / self._usual
        return nearest

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows = self._values.rows(data.cat)
        distances = self._distances(rows)
        surcharge = self._values.is_new(rows) * self._worst
        steps = (distances.amax(dim=-1) + surcharge.sum(dim=-1)) * data.mask
        score = steps.sum(dim=-1) / data.lengths.clamp(min=1)
        if explain == "none":
            return Scores(score)
        fields = halved(distances, self._net.pairs, data.fields) + surcharge
        fields = fields * data.mask.unsqueeze(-1)
        return Scores(score, steps, fields)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> VertexEmbedding:
        vocab = self._fitted().vocab
        return VertexEmbedding(sum(vocab), len(vocab), self.config.width).to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **module_state(self._net, "net."),
            "counts": self._counts,
            "memory": self._memory,
            "seen": torch.tensor(self._seen),
            "centres": self._centres,
            "usual": self._usual,
            "worst": self._worst,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._counts, self._memory = state["counts"], state["memory"]
        self._seen = int(state["seen"])
        self._centres, self._usual = state["centres"], state["usual"]
        self._worst = state["worst"]
        self._values = ValueTable(self._fitted().vocab, self._counts)
        self._net = self._build()
        load_module(self._net, state, "net.")
