"""Recurrent autoencoder ensemble: networks with different memories vote on every step."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining, squared_error
from detectors.detector import Budget
from detectors.loops.batches import evaluate, split
from detectors.loops.error_scale import ErrorScale
from detectors.loops.pooling import Pool, Pooling
from detectors.loops.stage import Count, Positive
from detectors.nets.skip_rnn import SkipAutoencoder
from detectors.scores import Explain, Scores


class RecurrentEnsemble(DenseDetector):
    """Median over an ensemble of recurrent autoencoders of the error of each step.

    A state of a member depends on the state before it, on the one ``L`` steps back, or on both,
    by a random choice that each member makes once for every step; ``L`` too is its own. Encoders
    read the window, decoders tell it backwards. Trained by themselves (``independent``), members
    minimise ``sum_t ||x_t - xhat_t||²``; as one (``shared``) all start from one combination ``h``
    of all codes, and ``sparsity ||h||_1`` is added.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit, as ``E`` columns a step; about
    ``M T H (3 E + 4 H)`` multiply-adds a window for ``M`` members of ``H = hidden`` units.

    Notes
    -----
    A step scores the median over the members of its squared error, by default in units of what each
    field has on held-out windows. The spread over the members comes with each score.

    From the paper: sparse recurrent units, both frameworks, median. Adaptations: members lie in one
    tensor; decoders are fed the code instead of their own last output; tanh units that start out
    orthogonal; errors are weighed by field; categories become columns.

    References
    ----------
    Kieu et al. 2019, *Outlier detection for time series with recurrent autoencoder ensembles*.
    Survey: Pang et al. 2020, section 5.1.1.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        members, hidden
            Autoencoders, and size of their states.
        reach
            Largest number of steps ``L`` that a connection skips.
        framework
            Whether members learn by themselves or from one common code.
        sparsity
            Weight of the absolute values of the common code.
        pooling
            A window scores the ``mean`` or the ``max`` of its steps, or the more unusual of
            ``both``.
        """

        members: Count = 12
        hidden: Count = 16
        reach: Count = 10
        framework: Literal["independent", "shared"] = "independent"
        sparsity: Annotated[float, msgspec.Meta(ge=0.0)] = 0.005
        pooling: Pool = "both"
        epochs: Count = 30
        steps_per_epoch: Count = 50
        batch: Count = 64
        learning_rate: Positive = 3e-3

    caps = Capabilities(
        name="rae_ens",
        section="5.1.1",
        supervision="unsupervised",
        kinds=("series",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="reconstruction",
        sources=("WAVES",),
    )
    chunk = 256  # states of a chunk of all members stay in the processor's cache
    _net: SkipAutoencoder

    def _network(self, columns: int) -> nn.Module:
        config, steps, width = self.config, self._fitted().steps, self._input.columns
        return SkipAutoencoder(
            config.members,
            width,
            config.hidden,
            steps,
            min(config.reach, steps),
            shared=config.framework == "shared",
        )

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        late = split(data)[1]
        batch = self.config.batch
        steps = evaluate(lambda part: self._votes(part).median(dim=0).values, late, batch)
        self._pooling = Pooling.fit(self.config.pooling, steps, late.mask)

    def _sequences(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return steps ``[B, T, E]`` and mask ``[B, T]`` of rows."""
        shape = (len(rows), self._fitted().steps, self._input.columns)
        return rows.view(shape), real.view(shape)[:, :, 0]

    def _copies(self, rows: Tensor, real: Tensor) -> Tensor:
        steps, mask = self._sequences(rows, real)
        return self._net.decode(self._net.encode(steps, mask), mask).flatten(2)

    def _loss(self, rows: Tensor, real: Tensor) -> Tensor:
        steps, mask = self._sequences(rows, real)
        codes = self._net.encode(steps, mask)
        copies = self._net.decode(codes, mask).flatten(2)
        loss = squared_error(copies, rows, real).mean(dim=0)
        if self.config.framework == "shared":
            weight: float = self.config.sparsity / self.config.members
            loss = loss + weight * codes[0].abs().sum(dim=1)
        return loss

    def _held_out_loss(self, rows: Tensor, real: Tensor) -> Tensor:
        return squared_error(self._copies(rows, real), rows, real).mean(dim=0)

    def _usual(self, data: WindowBatch) -> ErrorScale:
        batch, trim = self.config.batch, self.config.trim
        errors = evaluate(lambda part: self._copy(part)[1].mean(dim=0)[part.mask], data, batch)
        return ErrorScale.fit(errors, trim)

    # -- scoring ----------------------------------------------------------------------------

    def _errors(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return copies ``[M, B, T, E]`` and errors ``[M, B, T, F + C]``, weighed by field."""
        copies, errors = self._copy(data)
        return copies, errors / self._scale.usual if self.config.whiten else errors

    def _votes(self, data: WindowBatch) -> Tensor:
        """Scores of the steps by each member, ``[M, B, T]``."""
        return self._errors(data)[1].mean(dim=-1)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        copies, errors = self._errors(data)
        votes = errors.mean(dim=-1)
        steps = votes.median(dim=0).values
        score = self._pooling(steps, data.mask)
        spread = self._pooling(votes.std(dim=0, correction=0), data.mask)
        if explain == "none":
            return Scores(score, uncertainty=spread)
        shares = errors.median(dim=0).values / errors.shape[-1]
        expected = copies[..., : data.features].median(dim=0).values
        return Scores(score, steps, shares, expected, spread)

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "usual": self._pooling.usual}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._pooling = Pooling(self.config.pooling, state["usual"])
        super()._restore(state)
