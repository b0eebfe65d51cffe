"""Graph autoencoder: an entity is anomalous that is unlike those it meets, or meets others."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch, Windows
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.loops.batches import evaluate, held_out_loss, split
from detectors.loops.reconstruction import minimise
from detectors.loops.stage import Count, Positive, Run, Share, Stage, Training, gentle
from detectors.nets.graph import GraphAutoencoder, Graphs, is_new
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores
from schemas.errors import DataError, ShapeError

LEAST = 1e-6

MOST = 2048
"""Largest graph: work and memory grow with the square of its size."""

PAIRS = 2**24
"""Pairs of vertices that are looked at in one pass; bounds memory, whatever the graphs."""


class Errors(NamedTuple):
    """How badly the network tells vertices: edges ``[B, N]``, features ``[B, N, F + 1]``."""

    edges: Tensor
    features: Tensor


class GraphConvolutionalAutoencoder(Detector):
    """Error of telling an entity's edges and attributes again from graph convolutions.

    A window of events is a graph: the entities that category fields name are its vertices, events
    join those that they name, and the numbers of an entity's events, averaged, are its attributes.
    Two graph convolutions give each vertex a code. Products of codes tell the edges, a third
    convolution the attributes; training minimises

    ``(1 - alpha) |a_i - ahat_i|² + alpha |x_i - xhat_i|²``, the mean over the vertices.

    An entity scores both errors, each as a root and in units of what the worst entities of held-out
    windows reach: of errors that some usual entities have too, such as those of hubs, much is
    needed. A window scores its worst entity; a step is told by the mean of its entities.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of at least two category fields, graphs of up to ``N = T C`` vertices;
    about ``N² (2 H + 3 K)`` multiply-adds a window. Windows with ``N`` above 2,048 are refused.

    Notes
    -----
    Entities are known by what they do and whom they meet and not by name, so that those that come
    later are judged like all others; one that the fit has not seen also pays the worst score of the
    held-out windows. Which mentions of such entities are of the same one is not known: each counts
    as an entity of its own, lest they become a hub that nobody was. Few of all pairs meet: those
    that do weigh as much as all others together, and a vertex counts the mean over its pairs, lest
    hubs decide all.

    Adaptations: graphs are made of the events of a window; the number of an entity's events and
    its field are attributes; scaled errors; new entities. Paths are not taken: a graph of the few
    entities of one event says nothing about them.

    References
    ----------
    Ding et al. 2019, *Deep anomaly detection on attributed networks*; Kipf and Welling 2017,
    *Semi-supervised classification with graph convolutional networks*. Survey: Pang et al. 2020,
    section 5.1.1.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden, code
            Widths of the convolutions.
        alpha
            Weight of the attributes; the rest is that of the edges.
        """

        hidden: Count = 64
        code: Count = 16
        alpha: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.5
        batch: Count = 64
        epochs: Count = 50
        learning_rate: Positive = 5e-3
        trim: Share = 0.01

    caps = Capabilities(
        name="gcn_ae",
        section="5.1.1",
        supervision="unsupervised",
        kinds=("graphwin",),
        min_fields=2,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="medium",
        loop="reconstruction",
        sources=("GRAPHS",),
    )
    chunk = 64

    def _at_once(self, steps: int) -> int:
        return min(super()._at_once(steps), self._most(steps, PAIRS))

    def _most(self, steps: int, pairs: int) -> int:
        """Windows with no more than so many pairs of vertices; at least one."""
        n = steps * len(self._fitted().vocab)
        return max(1, pairs // max(1, n * n))

    def _accept(self, windows: Windows) -> WindowBatch:
        batch = super()._accept(windows)
        self._check_size(batch, ShapeError)
        return batch

    def _check_kind(self, batch: WindowBatch) -> None:
        super()._check_kind(batch)
        self._check_size(batch, DataError)

    def _check_size(self, batch: WindowBatch, error: type[Exception]) -> None:
        n = batch.steps * batch.fields
        if n > MOST:
            msg = (
                f"{self.caps.name}: {batch.steps} steps of {batch.fields} fields are graphs of up "
                f"to {n} entities, at most {MOST} fit; shorten the windows"
            )
            raise error(msg)

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._net = self._build()
        self._learn(data, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._learn(data, gentle(self.config), Run.of_update(self.seed, budget, self.report))

    def _learn(self, data: WindowBatch, settings: Training, run: Run) -> None:
        early, late = split(data)
        # windows are evaluated four mini-batches at a time
        batch = min(settings.batch, self._most(data.steps, PAIRS // 4))
        settings = msgspec.structs.replace(settings, batch=batch)
        minimise(
            Stage(self._net, settings, run),
            early,
            self._loss,
            lambda: held_out_loss(self._loss, late, settings),
            new_ids=False,
        )
        worst, mean = evaluate(self._parts, late, batch).unbind(dim=1)
        self._reach = worst.quantile(1 - settings.trim, dim=0).clamp(min=LEAST)
        self._mean = mean.mean(dim=0).clamp(min=LEAST)
        self._worst = evaluate(lambda part: self._vertices(part)[0].amax(dim=1), late, batch).max()

    def _loss(self, data: WindowBatch) -> Tensor:
        graphs = Graphs.of(data)
        errors, alpha = self._errors(graphs), self.config.alpha
        each = (1 - alpha) * errors.edges + alpha * errors.features.sum(dim=2)
        mean: Tensor = each.sum(dim=1) / graphs.real.sum(dim=1).clamp(min=1)
        return mean

    def _errors(self, graphs: Graphs) -> Errors:
        edges, features = self._net(graphs)
        n = graphs.real.sum(dim=1).clamp(min=1)
        pairs = graphs.real.unsqueeze(2) & graphs.real.unsqueeze(1)
        met = (graphs.adjacency > 0).sum(dim=(1, 2)).clamp(min=1)
        rare = ((n.square() - met) / met).clamp(min=1).view(-1, 1, 1)
        weight = torch.where(graphs.adjacency > 0, rare, 1.0) * pairs
        wrong = weight * (graphs.adjacency - edges).square()
        told = features.shape[2]
        gaps = (graphs.features[..., :told] - features).square() * graphs.real.unsqueeze(2)
        return Errors(wrong.sum(dim=2) / weight.sum(dim=2).clamp(min=1), gaps)

    def _parts(self, data: WindowBatch) -> Tensor:
        """Roots ``[B, 2, 2]`` of errors: of the worst vertex and their mean, edges and features."""
        graphs = Graphs.of(data)
        errors = self._errors(graphs)
        roots = torch.stack([errors.edges.sqrt(), errors.features.sum(dim=2).sqrt()], dim=2)
        roots = roots * graphs.real.unsqueeze(2)
        count = graphs.real.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.stack([roots.amax(dim=1), roots.sum(dim=1) / count], dim=1)

    # -- scoring ----------------------------------------------------------------------------

    def _vertices(self, data: WindowBatch) -> tuple[Tensor, Tensor, Tensor, Graphs]:
        """Scores ``[B, N]`` of vertices, their parts by edges and by features, and the graphs."""
        graphs, alpha = Graphs.of(data), self.config.alpha
        errors = self._errors(graphs)
        edges = (1 - alpha) * errors.edges.sqrt() / self._reach[0]
        size = errors.features.sum(dim=2, keepdim=True)
        root = size.sqrt() / self._reach[1]
        features = alpha * root * errors.features / size.clamp(min=torch.finfo(size.dtype).tiny)
        return edges + features.sum(dim=2), edges, features, graphs

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        vertices, edges, features, graphs = self._vertices(data)
        size, steps, fields = data.cat.shape
        place = graphs.place.reshape(size, -1)
        surcharge = is_new(data) * self._worst
        mentions = vertices.gather(1, place).view(size, steps, fields) + surcharge
        mentions = mentions * data.mask.unsqueeze(2)
        score = mentions.amax(dim=(1, 2)) if steps else vertices.new_zeros(size)
        if explain == "none":
            return Scores(score)
        # in units of the mean, lest an error that is high for all entities takes all the blame
        excess = self._reach / self._mean
        edges, features, surcharge = edges * excess[0], features * excess[1], surcharge * excess[0]
        index = place.unsqueeze(2).expand(-1, -1, features.shape[2])
        told = features.gather(1, index).view(size, steps, fields, -1)
        numbers = told[..., : data.features].sum(dim=2)
        others = edges.gather(1, place).view(size, steps, fields) + told[..., data.features :].sum(
            dim=3
        )
        shares = torch.cat([numbers, others + surcharge], dim=2) * data.mask.unsqueeze(2)
        return Scores(score, mentions.mean(dim=2), shares / fields)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> GraphAutoencoder:
        shape, config = self._fitted(), self.config
        told = shape.features + 1
        net = GraphAutoencoder(told + len(shape.vocab), told, config.hidden, config.code)
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **module_state(self._net, "net."),
            "reach": self._reach,
            "mean": self._mean,
            "worst": self._worst,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._reach, self._mean, self._worst = (state[n] for n in ("reach", "mean", "worst"))
        self._net = self._build()
        load_module(self._net, state, "net.")
