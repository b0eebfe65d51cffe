"""Cross-feature models: a record is anomalous whose fields the other fields did not announce."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import NEW, WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Detector
from detectors.device import beside
from detectors.loops.batches import evaluate, minibatches, split, trimmed_mean
from detectors.loops.moments import MAX_MEMORY
from detectors.loops.stage import Count, Run, Stage, Training, gentle
from detectors.loops.training import train
from detectors.nets.conditional import MaskedFieldNet
from detectors.nets.heads import new_value_surcharge, per_step_mean
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores


class Masked(NamedTuple):
    """A mini-batch, and which fields of it ``[B, T, F + C]`` are hidden."""

    data: WindowBatch
    hide: Tensor


def hide_some(data: WindowBatch, share: float, generator: torch.Generator) -> Masked:
    """Hide a random share of the fields of each step, and at least one."""
    shape = (*data.mask.shape, data.features + data.fields)
    draws = beside(torch.rand(shape, generator=generator), data.mask)
    return Masked(data, (draws < share) | (draws == draws.amin(dim=-1, keepdim=True)))


class CrossFeature(Detector):
    """Sum over the fields of ``-log p(x_i | all others)``, less what it usually is.

    One network learns to say hidden fields from those that are shown: a Gaussian for each number, a
    softmax for each category. Training hides a random share of the fields; scoring hides each in
    turn. From every surprisal its mean ``H_i`` over held-out records is taken, so that a field that
    is hard to say does not drown the others.

    Shapes
    ------
    Records ``[B, T, F + C]``, of which each step counts by itself and a window scores their mean;
    ``F + C`` passes of about ``128 (E + F + C) + 8192`` multiply-adds a step for ``E`` columns.

    Notes
    -----
    A field that repeats another is said from it alone: the two then tell of each other, and of
    nothing else. Drop duplicates where that is not wanted.

    Adaptations: one network with hidden fields instead of a model for each; new values, of which
    training shows one percent, pay a surcharge. Voting, the count of fields outside a quantile, is
    not offered.

    References
    ----------
    Huang et al. 2003, *Cross-feature analysis for detecting ad-hoc routing anomalies*; Noto et al.
    2012, *FRaC: a feature-modeling approach for semi-supervised and unsupervised anomaly detection*
    (the score). Survey: Pang et al. 2020, section 5.1.4.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Widths of the network's layers.
        hide
            Share of the fields that training hides.
        """

        hidden: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (128, 64)
        hide: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.3
        epochs: Count = 50

    caps = Capabilities(
        name="crossfeat",
        section="5.1.4",
        supervision="semi-supervised",
        kinds=("record", "catrec"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        cost="small",
        loop="prediction",
        sources=("SUBSPACE", "PATHS"),
    )
    chunk = 128  # each record becomes as many as it has fields

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._net = self._build()
        self._surcharge = new_value_surcharge(data)
        self._usual, self._count = self._learn(
            data, self.config, Run(self.seed, budget, self.report)
        )

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = Run.of_update(self.seed, budget, self.report)
        newer, count = self._learn(data, gentle(self.config), run)
        old = torch.minimum(self._count, MAX_MEMORY * count)
        self._count = old + count
        self._usual = (old * self._usual + count * newer) / self._count.clamp(min=1)

    def _learn(self, data: WindowBatch, settings: Training, run: Run) -> tuple[Tensor, Tensor]:
        """Train; return mean surprisals ``[F + C]`` of held-out steps, and how many those are."""
        early, late = split(data)
        share = self.config.hide

        def draw(generator: torch.Generator) -> Iterator[Masked]:
            for batch in minibatches(early, settings, generator):
                yield hide_some(batch, share, generator)

        # the same fields every time, so that epochs compare
        judge = hide_some(late, share, torch.Generator().manual_seed(run.seed))

        def validate() -> float:
            with torch.no_grad():
                return trimmed_mean(self._loss(judge), settings.trim)[0].item()

        train(Stage(self._net, settings, run), draw, self._loss, validate=validate)
        found = evaluate(lambda part: self._surprisal(part)[1][part.mask], late, settings.batch)
        count = torch.tensor(float(len(found)), device=found.device)
        return found.sum(dim=0) / count.clamp(min=1), count

    def _loss(self, batch: Masked) -> Tensor:
        hidden = batch.hide & batch.data.mask.unsqueeze(-1)
        surprisal = self._net.together(batch.data, batch.hide)
        return (surprisal * hidden).sum(dim=(1, 2)) / hidden.sum(dim=(1, 2)).clamp(min=1)

    # -- scoring ----------------------------------------------------------------------------

    def _surprisal(self, data: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return expected numbers ``[B, T, F]``, and surprisals ``[B, T, F + C]``."""
        mean, surprisal = self._net.one_by_one(data)
        novelty = (data.cat == NEW) * self._surcharge
        return mean, surprisal + nn.functional.pad(novelty, (data.features, 0))

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        mean, surprisal = self._surprisal(data)
        excess = surprisal - self._usual
        score = per_step_mean(excess.sum(dim=-1), data.mask)
        if explain == "none":
            return Scores(score)
        fields = excess.clamp(min=0) * data.mask.unsqueeze(-1)
        return Scores(score, fields.sum(dim=-1), fields, mean)

    # -- files ------------------------------------------------------------------------------

    def _build(self) -> MaskedFieldNet:
        shape = self._fitted()
        return MaskedFieldNet(shape.features, shape.vocab, self.config.hidden).to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {
            **module_state(self._net, "net."),
            "surcharge": self._surcharge,
            "usual": self._usual,
            "count": self._count,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._surcharge = state["surcharge"]
        self._usual, self._count = state["usual"], state["count"]
        self._net = self._build()
        load_module(self._net, state, "net.")
