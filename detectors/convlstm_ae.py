"""ConvLSTM autoencoder: features that no longer move together as they used to."""

from __future__ import annotations

from typing import Annotated

import msgspec
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.batches import evaluate
from detectors.loops.error_scale import ErrorScale
from detectors.loops.stage import Count, Positive, Share, Training
from detectors.nets.signature import MapAutoencoder, signature_maps
from detectors.network import NetworkDetector
from detectors.scores import Explain, Scores
from schemas.errors import DataError

WIDEST = 64
"""Most columns: a map has their square of entries."""


class ConvLstmAutoencoder(NetworkDetector):
    """Error of copying the latest map of how the features of a window move together.

    A map holds ``M_t[i, j] = (1/w) sum_(d < w) x_(t-d, i) x_(t-d, j)`` for each of a few ``scales``
    ``w``, as channels. Convolutions shrink the ``maps`` of a window, a convolutional LSTM reads
    them in their order, and transposed convolutions copy the last one from its output. A window
    scores the mean squared error over the entries of that map, each relative to what it is on
    held-out windows.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``, as up to 64 columns ``E`` a step; about
    ``maps E² (S T + 2 S width + width² + 2 code (2 width + code))`` multiply-adds a window for
    ``S`` scales: more than ten million, and so medium, beyond some 40 columns.

    Notes
    -----
    The row of a feature names it where its ties to the others break, though each value by itself
    is usual. A shift of all features in time, or a change of all signs, leaves the maps alone.

    From the papers: ConvLSTM, maps, error of the last one. Adaptations: one level of recurrence, no
    attention; scales are cut to the steps of the fit, and at the beginning of a window means are
    over the steps that are there; entries are weighed, and their errors averaged instead of counted
    beyond a quantile; the share of a feature is that of its row, spread evenly over the steps;
    categories become columns.

    References
    ----------
    Luo et al. 2017, *Remembering history with convolutional LSTM for anomaly detection*; Zhang et
    al. 2019, *A deep neural network for unsupervised anomaly detection and diagnosis in
    multivariate time series data*. Survey: Pang et al. 2020, section 5.1.1.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        scales
            Numbers of steps that products are averaged over.
        maps
            Maps of a window.
        width, code
            Channels of the first level, half of those of the second, and of the memory.
        """

        scales: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (10, 30, 60)
        maps: Count = 5
        width: Count = 16
        code: Count = 8
        steps_per_epoch: Count = 50
        batch: Count = 64
        learning_rate: Positive = 3e-3
        trim: Share = 0.01

    caps = Capabilities(
        name="convlstm_ae",
        section="5.1.1",
        supervision="semi-supervised",
        kinds=("series",),
        partial_fit="full",
        per_feature=True,
        cost="small",
        loop="reconstruction",
        sources=("WAVES",),
    )
    chunk = 256

    def _network(self) -> nn.Module:
        if self._input.columns > WIDEST:
            msg = (
                f"{self.caps.name}: maps of {self._input.columns} columns are too large, "
                f"{WIDEST} at most; choose features"
            )
            raise DataError(msg)
        return MapAutoencoder(len(self._scales()), self.config.width, self.config.code)

    def _scales(self) -> tuple[int, ...]:
        """Scales no longer than the windows of the fit, and none twice."""
        steps = self._fitted().steps
        return tuple(sorted({min(scale, steps) for scale in self.config.scales}))

    # -- learning ---------------------------------------------------------------------------

    def _loss(self, data: WindowBatch) -> Tensor:
        return self._errors(data).mean(dim=(1, 2, 3))

    def _learn_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        self._scale = self._usual(late)

    def _update_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        self._scale = self._scale.updated(self._usual(late))

    def _usual(self, data: WindowBatch) -> ErrorScale:
        batch = self.config.batch
        errors = evaluate(lambda part: self._errors(part).flatten(1), data, batch)
        return ErrorScale.fit(errors, self.config.trim)

    # -- scoring ----------------------------------------------------------------------------

    def _errors(self, data: WindowBatch) -> Tensor:
        """Squared errors of the last map, ``[B, S, E, E]``."""
        maps = signature_maps(self._input(data), data.mask, self._scales(), self.config.maps)
        errors: Tensor = (maps[:, -1] - self._net(maps)).square()
        return errors

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        errors = self._errors(data)
        errors = errors / self._scale.usual.view(errors.shape[1:])
        score = errors.mean(dim=(1, 2, 3))
        if explain == "none":
            return Scores(score)
        rows = errors.mean(dim=(1, 3)) / errors.shape[-1]
        even = data.mask / data.lengths.clamp(min=1).unsqueeze(1)
        shares = self._input.attribute(rows.unsqueeze(1)) * even.unsqueeze(-1)
        return Scores(score, feature=shares)

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), **self._scale.state("scale.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._scale = ErrorScale.from_state(state, "scale.")
        super()._restore(state)
