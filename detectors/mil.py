"""Multiple-instance ranking: sessions that hold an anomaly teach which of their steps it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.loops.label_store import LabelStore
from detectors.loops.stage import Count, Positive, Run, Stage, Training, gentle
from detectors.loops.training import train
from detectors.nets.embedding import SequenceInput, show_new
from detectors.nets.modules import load_module, module_state
from detectors.nets.ranks import Ranks
from detectors.nets.tcn import Tcn
from detectors.scores import Explain, Scores

NOTHING = -1e4
"""Logit of a step that is none: below that of any step, or padding would be a bag's best."""

Weight = Annotated[float, msgspec.Meta(ge=0.0)]


class Bags(NamedTuple):
    """A mini-batch: bags that hold an anomaly, and bags that presumably do not."""

    positive: WindowBatch
    negative: WindowBatch


class InstanceNet(nn.Module):
    """How anomalous each step is, by itself and the ``1 + 4 (2**blocks - 1)`` before."""

    def __init__(
        self, features: int, vocab: tuple[int, ...], hidden: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        self.ranks = Ranks(features)
        self.input = SequenceInput(2 * features, vocab)
        self.encoder = Tcn(self.input.width, hidden, blocks)
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden // 2, 1),
        )

    def forward(self, data: WindowBatch) -> Tensor:
        """Logits ``[B, T]``, ``NOTHING`` under the mask."""
        ranked = replace(data, num=self.ranks(data.num))
        hidden = self.encoder(self.input(ranked), data.mask)
        logits: Tensor = self.head(hidden).squeeze(-1).masked_fill(~data.mask, NOTHING)
        return logits


class MultipleInstanceRanking(Detector):
    """Most anomalous step of a session, learned from labels of whole sessions.

    A window is a bag, its steps are the instances. Only bags have labels: one that is labelled as
    anomalous holds an anomalous step somewhere. The best step of such a bag ``p`` is to exceed the
    best step of every other bag ``n`` by 1:

    ``max(0, 1 - max_t l(p_t) + max_t l(n_t)) + smooth sum_t (tau(p_t) - tau(p_t+1))² +
    sparse sum_t tau(p_t)``,

    with ``l`` what the network says of a step and ``tau`` its logistic function, in 0 .. 1. A bag
    scores its best step, ``log(1 + exp l)``, and the steps say where.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit; about ``8 blocks H²`` multiply-adds
    a step.

    Notes
    -----
    Bags without a label and bags labelled as normal count alike: one that is neither labelled nor
    normal teaches that its anomaly is none. ``partial_fit`` goes on with new labels and with
    those that are remembered.

    Adaptations: what is ranked is ``l`` and not ``tau``, which soon is 1 for the best step of
    nearly all bags and then neither ranks nor teaches; convolutions over the steps before an
    instance take the place of a network that was trained on videos; numbers are shown by their
    ranks as well; each labelled bag is compared with all others of its mini-batch; Adam in place of
    Adagrad.

    References
    ----------
    Sultani et al. 2018, *Real-world anomaly detection in surveillance videos*. Survey: Pang et al.
    2020, section 6.1, equation 37.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden, blocks
            Width of the network, and its residual blocks: an instance reaches back by
            ``4 (2**blocks - 1)`` steps.
        dropout
            Share of the last hidden layer that training hides.
        smooth, sparse
            Weights of the differences and of the sum of the steps of a labelled bag.
        """

        hidden: Annotated[int, msgspec.Meta(ge=2)] = 32
        blocks: Count = 2
        dropout: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.6
        smooth: Weight = 8e-5
        sparse: Weight = 8e-5
        epochs: Count = 30
        steps_per_epoch: Count = 30
        batch: Annotated[int, msgspec.Meta(ge=2)] = 60
        learning_rate: Positive = 1e-3
        decay: Positive = 1.0
        weight_decay: Weight = 1e-2

    caps = Capabilities(
        name="mil",
        section="6.1",
        supervision="weakly supervised",
        kinds=("bag",),
        min_labels=2,
        uses_labels=True,
        partial_fit="full",
        per_step=True,
        pads=False,
        cost="small",
        loop="deviation",
        sources=("BAGS",),
        waived={
            "blames_the_step": (
                "only whole sessions are labelled, and one instance in each is taught: any stretch "
                "of steps that holds what is odd does, and where in it that lies is never asked"
            ),
        },
    )
    chunk = 1024

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._net = self._build()
        self._net.ranks.learn(data.num[data.mask])
        self._learn(self._given(data, labels), self.config, Run(self.seed, budget, self.report))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        # the full learning rate: a tenth of it would not let a new label be seen to work
        settings = gentle(self.config, rate=1.0)
        given = self._kept.joined(self._given(data, labels))
        self._learn(given, settings, Run.of_update(self.seed, budget, self.report))

    def _given(self, data: WindowBatch, labels: Tensor | None) -> LabelStore:
        return LabelStore.of(data.padded(self._fitted().steps), labels)

    def _learn(self, given: LabelStore, settings: Training, run: Run) -> None:
        bags = Bags(given.windows[given.marks == 1], given.windows[given.marks != 1])
        half = settings.batch // 2

        def draw(generator: torch.Generator) -> Iterator[Bags]:
            for _ in range(settings.steps_per_epoch):
                yield Bags(*(_some(part, half, generator) for part in bags))

        train(Stage(self._net, settings, run), draw, self._loss)
        self._kept = given.bounded(run.seed)

    def _loss(self, bags: Bags) -> Tensor:
        positive, negative = self._net(bags.positive), self._net(bags.negative)
        return ranking_loss(
            positive, negative, bags.positive.mask, self.config.smooth, self.config.sparse
        )

    # -- scoring ----------------------------------------------------------------------------

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        # no less than 0, and without the ties of a logistic function that is 1 for all that is odd
        steps = nn.functional.softplus(self._net(data)) * data.mask
        score = steps.amax(dim=1) if data.steps else steps.new_zeros(len(data))
        return Scores(score) if explain == "none" else Scores(score, steps)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> InstanceNet:
        shape, config = self._fitted(), self.config
        net = InstanceNet(shape.features, shape.vocab, config.hidden, config.blocks, config.dropout)
        return net.to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {**module_state(self._net, "net."), **self._kept.state("kept.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._kept = LabelStore.from_state(state, "kept.", self._fitted())
        self._net = self._build()
        load_module(self._net, state, "net.")


def ranking_loss(
    positive: Tensor, negative: Tensor, real: Tensor, smooth: float, sparse: float
) -> Tensor:
    """Loss ``[P]`` of labelled bags, each beside all others.

    Parameters
    ----------
    positive, negative
        Logits ``[P, T]`` and ``[N, T]``, ``NOTHING`` under the mask.
    real
        ``[P, T]``: which steps of the labelled bags are no padding.
    """
    best, others = positive.amax(dim=1, keepdim=True), negative.amax(dim=1)
    hinge = (1 - best + others).clamp(min=0).mean(dim=1)
    tau = torch.sigmoid(positive)
    both = real[:, 1:] & real[:, :-1]
    rough = ((tau[:, 1:] - tau[:, :-1]).square() * both).sum(dim=1)
    return hinge + smooth * rough + sparse * (tau * real).sum(dim=1)


def _some(bags: WindowBatch, count: int, generator: torch.Generator) -> WindowBatch:
    chosen = torch.randint(len(bags), (count,), generator=generator)
    return show_new(bags[beside(chosen, bags.mask)], generator)
