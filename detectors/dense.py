"""What all detectors have in common that copy a flattened window through a dense network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.inputs import RecordInput
from detectors.loops.batches import evaluate, held_out_loss, minibatches, split
from detectors.loops.error_scale import ErrorScale
from detectors.loops.reconstruction import minimise
from detectors.loops.stage import Count, Run, Share, Stage, Training, gentle
from detectors.loops.training import warm_up
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores


class DenseTraining(Training, frozen=True, kw_only=True):
    """Settings of every dense autoencoder, besides those of every training.

    Attributes
    ----------
    whiten
        Whether the error of each field is divided by what it usually is on held-out windows.
    """

    whiten: bool = True
    epochs: Count = 50
    weight_decay: float = 1e-5
    trim: Share = 0.01


class DenseDetector(Detector):
    """Mean over the real entries of how badly a network copies them.

    Subclasses build a network from rows ``[B, D]`` to their copies, ``D = T * E`` columns of a
    window after padding it to the ``T`` of the fit. They may change what an entry contributes
    (``_entry``), what training minimises (``_loss``) and what it does before that (``_prelude``).

    New values are never shown in training: their columns then stay at zero in every copy, and the
    whole height of a column is left over as an error.
    """

    chunk = 2048  # intermediate results stay in the processor's cache
    _net: nn.Module
    warmth: float = 1.0
    """Rises from 0 to 1 over the warm-up, for losses that tighten during it."""

    # -- what a subclass provides -----------------------------------------------------------

    @abstractmethod
    def _network(self, columns: int) -> nn.Module:
        """Return a new network over rows of ``columns`` numbers."""

    def _entry(self, residual: Tensor) -> Tensor:
        """Say what each entry of a residual ``[B, D]`` contributes, at least 0."""
        return residual.square()

    def _copies(self, rows: Tensor, real: Tensor) -> Tensor:
        """Copy rows ``[B, D]``; ``M`` networks side by side give ``[M, B, D]``."""
        copies: Tensor = self._net(rows)
        return copies

    def _loss(self, rows: Tensor, real: Tensor) -> Tensor:
        """Training loss ``[B]`` of rows ``[B, D]``; ``real [B, D]`` is false for padding."""
        return squared_error(self._copies(rows, real), rows, real)

    def _held_out_loss(self, rows: Tensor, real: Tensor) -> Tensor:
        """Loss that chooses among weights: free of chance, and the same at any warmth."""
        return squared_error(self._copies(rows, real), rows, real)

    def _warm_up(self) -> int:
        """Epochs of a fit over which ``warmth`` rises."""
        return 0

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._input = RecordInput.fit(data)
        self._net = self._build()
        run = Run(self.seed, budget, self.report)
        self._corruption = torch.Generator().manual_seed(self.seed)
        early, late = split(data)
        if self._warm_up():
            self._warm(run, early)
        self._train(Stage(self._net, self.config, run), early, late)
        self._scale = self._usual(late)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = Run.of_update(self.seed, budget, self.report)
        self._corruption = torch.Generator().manual_seed(self.seed + 1)
        early, late = split(data)
        self._train(Stage(self._net, gentle(self.config), run), early, late)
        self._scale = self._scale.updated(self._usual(late))

    def _train(self, stage: Stage, early: WindowBatch, late: WindowBatch) -> None:
        held_out = self._over(self._held_out_loss)
        minimise(
            stage,
            early,
            self._over(self._loss),
            lambda: held_out_loss(held_out, late, stage.settings),
            new_ids=False,
        )

    def _warm(self, run: Run, early: WindowBatch) -> None:
        """Train while the loss tightens, for at most half of the budget."""

        def tighten(warmth: float) -> None:
            self.warmth = warmth

        settings = msgspec.structs.replace(self.config, epochs=self._warm_up(), decay=1.0)
        warm_up(
            Stage(self._net, settings, run, share=0.5),
            lambda generator: minibatches(early, settings, generator, new_ids=False),
            self._over(self._loss),
            tighten,
        )

    def _over(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[WindowBatch], Tensor]:
        """Turn a loss of rows into one of windows."""
        return lambda batch: loss(self._rows(batch), self._real(batch))

    def _usual(self, data: WindowBatch) -> ErrorScale:
        batch, trim = self.config.batch, self.config.trim
        errors = evaluate(lambda part: self._copy(part)[1][part.mask], data, batch)
        return ErrorScale.fit(errors, trim)

    # -- scoring ----------------------------------------------------------------------------

    def _rows(self, data: WindowBatch) -> Tensor:
        """``[B, D]``."""
        return self._input.flatten(data)

    def _real(self, data: WindowBatch) -> Tensor:
        """``[B, D]``: which entries are no padding."""
        return self._input.real(data)

    def _copy(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return copies ``[B, T, E]`` and errors ``[B, T, F + C]``, 0 under the mask.

        Several networks side by side give one of each, ``[M, B, T, E]`` and so on.
        """
        rows, real = self._rows(data), self._real(data)
        copies = self._copies(rows, real)
        shape = (*copies.shape[:-1], self._fitted().steps, self._input.columns)
        entries = self._entry((rows - copies) * real).view(shape)[..., : data.steps, :]
        return copies.view(shape)[..., : data.steps, :], self._input.attribute(entries)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        copies, errors = self._copy(data)
        if self.config.whiten:
            errors = errors / self._scale.usual
        shares = errors / self._entries(data)[:, None, None]
        steps = shares.sum(dim=-1)
        score = steps.sum(dim=-1)
        if explain == "none":
            return Scores(score)
        return Scores(score, steps, shares, copies[:, :, : data.features])

    def _entries(self, data: WindowBatch) -> Tensor:
        """``[B]``: real steps times fields."""
        return data.lengths.clamp(min=1) * (data.features + data.fields)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> nn.Module:
        return self._network(self._input.width).to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **self._input.state("input."),
            **module_state(self._net, "net."),
            **self._scale.state("scale."),
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = RecordInput.from_state(state, "input.", self._fitted())
        self._scale = ErrorScale.from_state(state, "scale.")
        self._net = self._build()
        load_module(self._net, state, "net.")


def squared_error(copies: Tensor, rows: Tensor, real: Tensor) -> Tensor:
    """Sum of the squared errors of the real entries, ``[B]`` or, for ``M`` copies, ``[M, B]``."""
    return ((copies - rows).square() * real).sum(dim=-1)
