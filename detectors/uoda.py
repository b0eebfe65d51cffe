"""UODA: codes of a denoising autoencoder, and a recurrent network that foresees them."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.denoise_ae import corrupted
from detectors.inputs import RecordInput
from detectors.loops.batches import evaluate, held_out_loss
from detectors.loops.deviance import ease_by_position
from detectors.loops.error_scale import ErrorScale
from detectors.loops.pooling import Pool, Pooling
from detectors.loops.prediction import delayed
from detectors.loops.reconstruction import minimise
from detectors.loops.stage import Count, Positive, Run, Share, Stage, Training
from detectors.nets.gru import Gru
from detectors.nets.heads import per_step_mean
from detectors.nets.mlp import mlp
from detectors.network import NetworkDetector
from detectors.scores import Explain, Scores


class StepCoder(nn.Module):
    """Autoencoder of single steps, with two layers of sigmoid units each way."""

    def __init__(self, columns: int, hidden: int, code: int) -> None:
        super().__init__()
        layers = mlp([columns, hidden, code], activation=nn.Sigmoid)
        self.encoder = layers.append(nn.Sigmoid())
        self.decoder = mlp([code, hidden, columns], activation=nn.Sigmoid)


class CodePredictor(nn.Module):
    """Says each code from the codes before it."""

    def __init__(self, code: int, hidden: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(code))
        self.body = Gru(code, hidden)
        self.head = nn.Linear(hidden, code)

    def forward(self, codes: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, code]`` to what each was expected to be."""
        expected: Tensor = self.head(self.body(delayed(codes, self.start), mask))
        return expected


class UodaNet(nn.Module):
    """Both parts, which are trained one after the other."""

    def __init__(self, columns: int, hidden: int, code: int, recurrent: int) -> None:
        super().__init__()
        self.coder = StepCoder(columns, hidden, code)
        self.predictor = CodePredictor(code, recurrent)


class Uoda(NetworkDetector):
    """Error of foreseeing the code of each step, and the step itself, from the codes before it.

    First a denoising autoencoder learns codes ``z_t`` of single steps: it copies ``x_t`` from a
    corrupted version. Then, with the autoencoder fixed, a GRU learns to say ``z_t`` from
    ``z_1 .. z_(t-1)``. A step scores ``||z_t - zhat_t||²`` plus, by field, the error of ``x_t``
    against what the decoder makes of ``zhat_t``, each relative to what it is on held-out windows,
    and both relative to what is usual that early in a window.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``, as ``E`` columns a step; about
    ``T (2 hidden (E + code) + 3 recurrent (code + recurrent))`` multiply-adds a window.

    Notes
    -----
    Codes that were trained to be foreseeable would all become alike; the autoencoder is not touched
    by the second training, nor by updates.

    From the paper: both stages, prediction of codes. Adaptations: a GRU with one layer; no joint
    fine-tuning; the second term of the score, in the space of the inputs, names the fields; errors
    are weighed by field; categories become columns, an event thus a step of one-hot columns, or
    beyond 64 ids a random code that stays as it is.

    References
    ----------
    Lu et al. 2017, *Unsupervised sequential outlier detection with deep architectures*. Survey:
    Pang et al. 2020, section 5.1.1.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden, code
            Hidden units and code of the autoencoder.
        recurrent
            Size of the states of the GRU.
        blanked, noise
            Share of the entries that the first training sets to 0, and standard deviation of the
            noise that it adds to the others.
        pretrain_epochs
            Epochs of the first training.
        pooling
            A window scores the ``mean`` or the ``max`` of its steps, or the more unusual of
            ``both``.
        """

        hidden: Count = 64
        code: Count = 32
        recurrent: Count = 32
        blanked: Share = 0.2
        noise: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
        pretrain_epochs: Count = 15
        pooling: Pool = "both"
        steps_per_epoch: Count = 50
        batch: Count = 64
        learning_rate: Positive = 3e-3
        trim: Share = 0.01

    caps = Capabilities(
        name="uoda",
        section="5.1.1",
        supervision="unsupervised",
        kinds=("series", "events"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        cost="small",
        loop="prediction",
        sources=("WAVES", "GRAMMAR"),
    )
    chunk = 512
    _net: UodaNet

    def _new_input(self, data: WindowBatch) -> RecordInput:
        return RecordInput.fit(data, codes=data.features == 0)

    def _network(self) -> nn.Module:
        config = self.config
        return UodaNet(self._input.columns, config.hidden, config.code, config.recurrent)

    # -- learning ---------------------------------------------------------------------------

    def _pretrain(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        config = self.config
        settings = msgspec.structs.replace(config, epochs=config.pretrain_epochs)

        def loss(data: WindowBatch) -> Tensor:
            steps = self._input(data)
            shown = corrupted(steps, config.noise, config.blanked, self._chance)
            return self._miss(shown, steps, data.mask)

        def clean(data: WindowBatch) -> Tensor:
            steps = self._input(data)
            return self._miss(steps, steps, data.mask)

        # half of a budget, lest it leave nothing to what is built on it
        stage = Stage(self._net.coder, settings, run, share=0.5)
        minimise(stage, early, loss, lambda: held_out_loss(clean, late, settings), new_ids=False)

    def _miss(self, shown: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B]``: squared error of copies of steps ``[B, T, E]`` from what is shown of them."""
        copies = self._net.coder.decoder(self._net.coder.encoder(shown))
        return per_step_mean((copies - steps).square().sum(dim=-1), mask)

    def _train(self, settings: Training, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        stage, loss = Stage(self._net.predictor, settings, run), self._loss
        minimise(stage, early, loss, lambda: held_out_loss(loss, late, settings), new_ids=False)

    def _loss(self, data: WindowBatch) -> Tensor:
        codes = self._net.coder.encoder(self._input(data))
        gap = codes - self._net.predictor(codes, data.mask)
        return per_step_mean(gap.square().sum(dim=-1), data.mask)

    def _learn_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        batch = self.config.batch
        self._scale = self._usual(late)
        self._ease = late.num.new_ones(1)
        steps = evaluate(self._steps, late, batch)
        self._ease = ease_by_position(steps, late.mask)
        steps = evaluate(self._steps, late, batch)
        self._pooling = Pooling.fit(self.config.pooling, steps, late.mask)

    def _update_usual(self, early: WindowBatch, late: WindowBatch) -> None:
        self._scale = self._scale.updated(self._usual(late))

    def _usual(self, data: WindowBatch) -> ErrorScale:
        """Of codes and of each field, over all steps but the first, which nothing announces."""

        def later(part: WindowBatch) -> Tensor:
            mask = part.mask.clone()
            mask[:, 0] &= part.steps == 1
            return self._errors(part)[1][mask]

        return ErrorScale.fit(evaluate(later, data, self.config.batch), self.config.trim)

    # -- scoring ----------------------------------------------------------------------------

    def _errors(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return expected steps ``[B, T, E]``; errors ``[B, T, 1 + F + C]`` of codes and fields."""
        steps = self._input(data)
        codes = self._net.coder.encoder(steps)
        foreseen = self._net.predictor(codes, data.mask)
        expected = self._net.coder.decoder(foreseen)
        fields = self._input.attribute((steps - expected).square())
        missed = (codes - foreseen).square().sum(dim=-1, keepdim=True)
        return expected, torch.cat([missed, fields], dim=-1) * data.mask.unsqueeze(-1)

    def _relative(self, errors: Tensor) -> Tensor:
        """Errors over what is usual for a field, and that early in a window."""
        at = torch.arange(errors.shape[1], device=errors.device).clamp(max=len(self._ease) - 1)
        return errors / self._scale.usual / self._ease[at].unsqueeze(-1)

    def _steps(self, data: WindowBatch) -> Tensor:
        """``[B, T]``."""
        return step_scores(self._relative(self._errors(data)[1]))

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        expected, errors = self._errors(data)
        errors = self._relative(errors)
        steps = step_scores(errors)
        score = self._pooling(steps, data.mask)
        if explain == "none":
            return Scores(score)
        return Scores(score, steps, errors[:, :, 1:], expected[:, :, : data.features])

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        own = {"ease": self._ease, "usual": self._pooling.usual}
        return {**super()._state(), **own, **self._scale.state("scale.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._ease = state["ease"]
        self._pooling = Pooling(self.config.pooling, state["usual"])
        self._scale = ErrorScale.from_state(state, "scale.")
        super()._restore(state)


def step_scores(errors: Tensor) -> Tensor:
    """Mean ``[B, T]`` of the error of the code, and of the mean error of the fields."""
    return (errors[:, :, 0] + errors[:, :, 1:].mean(dim=-1)) / 2
