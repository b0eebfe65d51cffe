"""Deep SVDD: windows whose code lies far from the one centre of all normal codes are anomalous."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import msgspec
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.loops.batches import split
from detectors.loops.one_class import Boundary, draw_in
from detectors.loops.stage import Run, Stage, Training, gentle
from detectors.one_class import OneClassNetwork, OneClassTraining
from detectors.scores import Explain, Scores


class DeepSvdd(OneClassNetwork):
    """Squared distance ``||phi(x) - c||²`` of a window's code to the centre of normal codes.

    An autoencoder teaches the encoder ``phi`` first; the centre ``c`` is then the mean code of all
    training windows, and stays; training then draws the codes of normal windows towards it. The
    ``soft-boundary`` objective only draws in what lies outside a sphere that may leave a share
    ``nu`` outside, and its score is the distance minus the squared radius.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` of any ``T``; a record costs about
    ``E H + 2 H²`` multiply-adds for ``E`` columns.

    Notes
    -----
    Against collapse, a network that maps everything to the centre: no layer of the encoder has a
    constant, the centre stays off zero, activations are unbounded (leaky ReLU).

    Adaptations: inputs are mapped to 0 .. 1 by the range seen at fit and not clipped, because a
    network without constants sends the zeros of a centred typical record to the code 0;
    convolutions and a GRU read series and events; embeddings are frozen after pre-training, since
    inputs that may move collapse as well, and that of a new value, which training cannot place, is
    made ``NEW_REACH`` times as long as the others. Both forms learn an anomaly that fills one
    percent of the training data: screen it first.

    Explanations integrate the gradient of the distance on the way to the window from the nearest of
    ``EXAMPLES`` windows of the fit.

    References
    ----------
    Ruff et al. 2018, *Deep one-class classification*; Sundararajan et al. 2017, *Axiomatic
    attribution for deep networks*. Survey: Pang et al. 2020, section 5.2.2, equations 28-31.
    """

    class Config(OneClassTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every one-class network.

        Attributes
        ----------
        objective
            ``one-class`` for clean training data, ``soft-boundary`` for unscreened data.
        nu
            Share of the windows that the soft boundary may leave outside.
        """

        objective: Literal["one-class", "soft-boundary"] = "one-class"
        nu: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.1

    caps = Capabilities(
        name="svdd",
        section="5.2.2",
        supervision="semi-supervised",
        kinds=("record", "series", "events"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="small",
        loop="one-class",
        sources=("SUBSPACE", "WAVES"),
    )

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = self._begin(data, budget)
        self._boundary = Boundary(self.config.nu, self._centre.new_zeros(()))
        self._draw_in(run, self.config, data)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._draw_in(Run.of_update(self.seed, budget, self.report), gentle(self.config), data)

    def _draw_in(self, run: Run, settings: Training, data: WindowBatch) -> None:
        boundary = self._boundary if self.config.objective == "soft-boundary" else None
        stage = Stage(self._encoder, settings, run)
        draw_in(stage, *split(data), self._distances, boundary)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        scores = super()._score(data, explain)
        return replace(scores, score=scores.score - self._boundary.radius)

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "radius": self._boundary.radius}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._boundary = Boundary(self.config.nu, state["radius"])
