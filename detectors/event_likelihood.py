"""What detectors have in common that learn how likely an event of several categories is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.loops.batches import split
from detectors.loops.likelihood import Events, Unigrams, contrast_events, fading
from detectors.loops.stage import Count, Positive, Run, Stage, Training, gentle
from detectors.nets.heads import new_value_surcharge, per_step_mean
from detectors.nets.interaction import Interaction, PairInteraction, ValueTable, count_values
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores


class LikelihoodTraining(Training, frozen=True, kw_only=True):
    """Settings of every event likelihood, besides those of every training.

    Attributes
    ----------
    width
        Width of an embedding.
    negatives
        Imitations of each event that training tells from it.
    horizon
        Events that ``partial_fit`` lets the past weigh at most in the frequencies of values.
    """

    width: Count = 32
    negatives: Count = 5
    horizon: Count = 1_000_000
    epochs: Count = 100
    batch: Count = 1024
    learning_rate: Positive = 1e-2


class EventLikelihood(Detector):
    """Negative log-likelihood of an event, up to a constant, as learned against imitations.

    Every step of a window is an event of its own. A value that training has not shown so far costs
    what new values cost, and a surcharge for standing for many. Subclasses say what the vectors of
    an event are.

    Explanations blame each pair for how far its term lies below what it usually is, half on either
    field, and a new value for its surcharge.
    """

    chunk = 2048
    _net: Interaction

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._counts = self._count(data)
        self._values = ValueTable(data.vocab, self._counts)
        self._surcharge = new_value_surcharge(data)
        self._net = self._build()
        one = self._counts.new_ones(())
        self._meet(data, torch.zeros(0, dtype=torch.int64, device=one.device), one)
        self._learn(data, self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        before = self._values
        fade = fading(self._counts, data.fields, self.config.horizon)
        self._counts = fade * self._counts + self._count(data)
        self._values = ValueTable(data.vocab, self._counts)
        self._meet(data, (self._values.known & ~before.known).nonzero().squeeze(1), fade)
        self._learn(data, gentle(self.config), Run.of_update(self.seed, budget, self.report))

    def _count(self, data: WindowBatch) -> Tensor:
        """``[V]``: how often values occur where training sees them, and so comes to know them."""
        early, _ = split(data)
        return count_values(early.cat[early.mask], data.vocab)

    def _meet(self, data: WindowBatch, fresh: Tensor, fade: Tensor) -> None:
        """Take in events before learning from them.

        Parameters
        ----------
        fresh
            Rows of values that counted as new until now.
        fade
            ``[]``: what the past weighs.
        """

    def _learn(self, data: WindowBatch, settings: Training, run: Run) -> None:
        early, late = (
            Events(self._values.rows(part.cat[part.mask]), part.num[part.mask])
            for part in split(data)
        )
        unigrams = Unigrams.fit(self._counts, self._values.start)
        stage = Stage(self._net, settings, run, groups=self._groups())
        contrast_events(
            stage, early, late, unigrams, self._net, self.config.negatives, self._besides()
        )
        self._settle()
        with torch.no_grad():
            self._usual = self._net.terms(*late).mean(dim=0)

    @abstractmethod
    def _groups(self) -> list[dict[str, object]]:
        """Parameter groups of the optimiser."""

    def _besides(self) -> Callable[[Tensor], Tensor] | None:
        """Say what else training minimises: rows ``[B, C]`` to ``[B]``."""
        return None

    def _settle(self) -> None:
        """Work out what scores need of the network; called after learning and after loading."""

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows = self._values.rows(data.cat)
        surcharge = self._values.is_new(rows) * self._surcharge
        terms = self._net.terms(rows, data.num)
        steps = surcharge.sum(dim=-1) - terms.sum(dim=-1) - self._net.constant
        score = per_step_mean(steps, data.mask)
        if explain == "none":
            return Scores(score)
        lacking = (self._usual - terms).clamp(min=0)
        fields = self._by_field(self._net.by_node(lacking), data)
        fields[:, :, data.features :] += surcharge
        fields = fields * data.mask.unsqueeze(-1)
        return Scores(score, fields.sum(dim=-1), fields)

    def _by_field(self, shares: Tensor, data: WindowBatch) -> Tensor:
        """Shares ``[B, T, nodes]`` of the vectors of an event to ``[B, T, F + C]``."""
        return shares

    @abstractmethod
    def _build(self) -> Interaction:
        """Make the untrained network on the detector's device."""

    def _state(self) -> dict[str, Tensor]:
        return {
            **module_state(self._net, "net."),
            "counts": self._counts,
            "surcharge": self._surcharge,
            "usual": self._usual,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._counts, self._surcharge = state["counts"], state["surcharge"]
        self._usual = state["usual"]
        self._values = ValueTable(self._fitted().vocab, self._counts)
        self._net = self._build()
        load_module(self._net, state, "net.")
        self._settle()


class EmbeddedEvents(EventLikelihood):
    """One embedding per value.

    Weight decay works on the embeddings alone: these and the weights of the pairs could otherwise
    grow at each other's expense.
    """

    positive: ClassVar[bool]
    """Whether weights of pairs stay above 0."""
    _net: PairInteraction

    def _meet(self, data: WindowBatch, fresh: Tensor, fade: Tensor) -> None:
        self._values.start_as_new(self._net.embedding.weight, fresh)

    def _groups(self) -> list[dict[str, object]]:
        net = self._net
        return [
            {"params": [net.embedding.weight]},
            {"params": [net.raw_weight, net.constant], "weight_decay": 0.0},
        ]

    def _build(self) -> PairInteraction:
        vocab = self._fitted().vocab
        net = PairInteraction(sum(vocab), len(vocab), self.config.width, positive=self.positive)
        return net.to(self.device)
