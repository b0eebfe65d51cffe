"""Deep SAD: a few labels tell which windows the centre of all normal codes must not draw in."""

from __future__ import annotations

from typing import Annotated

import msgspec
from torch import Tensor

from detectors.arguments import UNLABELLED
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.loops.batches import split
from detectors.loops.label_store import LabelStore
from detectors.loops.one_class import draw_apart
from detectors.loops.stage import Run, Share, Stage, Training, gentle
from detectors.one_class import OneClassNetwork, OneClassTraining
from detectors.scaling import QuartileScaler


class DeepSad(OneClassNetwork):
    """Squared distance ``||phi(x) - c||²`` of a window's code, with labelled anomalies pushed out.

    As in Deep SVDD an autoencoder teaches the encoder ``phi`` first, the centre ``c`` is the mean
    code of all windows but labelled anomalies, and training draws codes of unlabelled windows
    towards it. Labels add ``d²`` of labelled normals and ``1 / d²`` of labelled anomalies:

    ``L = mean_u d² + eta mean_l (d² + eps)^y``, ``y = 1`` for normals and ``-1`` for anomalies.

    A tenth of each mini-batch are labelled windows, drawn with replacement. ``partial_fit`` adds
    labels: it goes on from the current weights, around the same centre, with the new windows and a
    memory of old ones.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` of any ``T``; a record costs about
    ``E H + 2 H²`` multiply-adds for ``E`` columns. What is kept for updates has the ``T`` of the
    fit: longer windows are cut.

    Notes
    -----
    The first mean leaves out the share ``trim`` of a mini-batch that is farthest out, where hidden
    anomalies are; labelled windows are never trimmed. Labels already keep out hidden anomalies of
    their kinds, and a large share would lose rare normal windows: it is small by default.

    Adaptations, besides those of Deep SVDD: the paper lets each window weigh the same, labelled or
    not, so that thirty labels among thousands hardly count; here labelled windows as a whole weigh
    ``eta`` times as much as unlabelled ones (the number of labelled over that of unlabelled windows
    as ``eta`` gives the paper's weights). Labelled anomalies nearer to the centre than all but one
    percent of the other windows push no harder, for they are likely wrong. Without unlabelled
    windows, labelled normals take their place. Held-out windows judge the weights together with the
    labelled ones.

    References
    ----------
    Ruff et al. 2020, *Deep semi-supervised anomaly detection*. Survey: Pang et al. 2020, section
    5.2.2, equation 31.
    """

    class Config(OneClassTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every one-class network.

        Attributes
        ----------
        eta
            Weight of all labelled windows together, that of all unlabelled ones being 1.
        """

        eta: Annotated[float, msgspec.Meta(ge=0.0)] = 1.0
        trim: Share = 0.01

    scaling = QuartileScaler
    caps = Capabilities(
        name="sad",
        section="5.2.2",
        supervision="weakly supervised",
        kinds=("record", "series", "events"),
        min_labels=1,
        uses_labels=True,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="small",
        loop="one-class",
        sources=("FEWLABELS",),
    )

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        given = self._given(data, labels)
        run = self._begin(data[given.marks != 1], budget)
        self._learn(given, self.config, run)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        # the full learning rate: a tenth of it would not let a new label be seen to work
        settings = gentle(self.config, rate=1.0)
        given = self._kept.joined(self._given(data, labels))
        self._learn(given, settings, Run.of_update(self.seed, budget, self.report))

    def _given(self, data: WindowBatch, labels: Tensor | None) -> LabelStore:
        """Windows with the steps of the fit, and their labels."""
        return LabelStore.of(data.padded(self._fitted().steps), labels)

    def _learn(self, given: LabelStore, settings: Training, run: Run) -> None:
        """Train on windows with and without labels, then renew what is kept."""
        known = given[given.marks != UNLABELLED]
        others = given.of_kind(UNLABELLED)
        if len(others) == 0:
            others = given.of_kind(0)
        draw_apart(
            Stage(self._encoder, settings, run),
            *split(others),
            known.windows,
            known.marks == 1,
            self._distances,
            self.config.eta,
        )
        self._kept = given.bounded(run.seed)

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), **self._kept.state("kept.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._kept = LabelStore.from_state(state, "kept.", self._fitted())
