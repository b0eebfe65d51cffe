"""ALOCC: a denoising copier and a judge of copies, trained against each other, score together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detectors.adversarial import (
    AdversarialDetector,
    AdversarialTraining,
    Found,
    boxed,
    mean_square,
)
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.loops.adversarial import Turn, separation
from detectors.loops.stage import Count, Player, Positive, Weight
from detectors.nets.adversarial import Critic, encoder, generator
from schemas.errors import DetectorError

LEAST = 1e-6
"""Least spread that a part of the score is divided by."""

CHANCE = 0.5
"""Share of right pairs below which the judge is not asked."""


class AloccNet(nn.Module):
    """Copier ``D - 128 - K - 128 - D``, and a judge that mirrors its first half."""

    def __init__(self, columns: int, hidden: int, code: int) -> None:
        super().__init__()
        self.encoder = encoder(columns, (hidden,), code)
        self.decoder = generator(code, (hidden,), columns)
        self.critic = Critic(columns, (hidden, code))

    def copy(self, rows: Tensor) -> Tensor:
        """``[B, D]`` to the same."""
        copies: Tensor = self.decoder(self.encoder(rows))
        return copies


class Alocc(AdversarialDetector):
    """How little a judge believes the copy of a window, plus how far the copy is from the window.

    The copier sees windows with noise and learns to give back what they were without it,
    ``||x - AE(x + n)||²``, in a way that the judge takes for real; the judge learns to tell windows
    from copies. Of what the copier has not learned it makes poor copies, which the judge sees
    through: ``1 - D(AE(x))``. The default score adds the squared distance of window and copy per
    entry, both in units of their spread over held-out windows.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``390 D + 12,000`` multiply-adds a window.

    Notes
    -----
    Trained for long, the copier is so good that the judge is left without an opinion; and since
    copies are smoother than data, the judge may take all that is rough for real. Weights are
    therefore chosen by how the score tells held-out windows from synthetic ones around them, and a
    judge that tells them worse than chance has no say in it; with ``score="judge"``, where nothing
    else has one, such a fit or update is refused. ``partial_fit`` teaches the judge and leaves the
    copier as it is. A judge that has long been sure starts over. Explanations spread the score over
    the fields by the squared distance of window and copy.

    Adaptations: the second part of the score; dense layers in place of convolutions; windows are
    flattened; columns are mapped to -1 .. 1 by quantiles; a running average of the weights in place
    of several sets of them. Other losses than the cross-entropy and a second phase that retrains
    the judge on copies of a good and a poor copier (Zaheer et al. 2020) are left out: the score
    needs a probability, and weights chosen by synthetic windows serve the purpose of that phase.

    References
    ----------
    Sabokrou et al. 2018, *Adversarially learned one-class classifier for novelty detection*.
    Survey: Pang et al. 2020, section 6.4, equations 45-46.
    """

    class Config(AdversarialTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every adversarial detector.

        Attributes
        ----------
        hidden, code
            Widths of the hidden layer on both sides, and of the code between them.
        noise
            Spread of the noise that training adds, where -1 .. 1 is the box of the data.
        copying
            Weight of the distance of window and copy in the copier's loss.
        score
            ``both``, or what the ``judge`` says alone.
        """

        hidden: Count = 128
        code: Count = 32
        noise: Positive = 0.15
        copying: Weight = 0.4
        score: Literal["both", "judge"] = "both"

    caps = Capabilities(
        name="alocc",
        section="6.4",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="head-only",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="adversarial",
        sources=("SUBSPACE",),
    )
    _net: AloccNet

    def _network(self, columns: int) -> nn.Module:
        return AloccNet(columns, self.config.hidden, self.config.code)

    def _code(self) -> int:
        return self._input.width  # the noise that is added to a row

    # -- learning ---------------------------------------------------------------------------

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._teach_judge(data, budget)

    def _compete(self, *args: Any, **others: Any) -> float:
        wrong = super()._compete(*args, **others)
        if self.config.score == "judge" and wrong > 1 - CHANCE:
            msg = (
                "alocc: the judge tells held-out windows from synthetic ones worse than chance; "
                "use score=both, or train for longer"
            )
            raise DetectorError(msg)
        return wrong

    def _players(self) -> Sequence[Player[Turn]]:
        net, config, rules, watch = self._net, self.config, self._rules, self._watch()

        def copies(turn: Turn) -> Tensor:
            return net.copy((turn.rows + config.noise * turn.noise) * turn.real) * turn.real

        def judge(turn: Turn) -> Tensor:
            return rules.duel(net.critic, (turn.rows,), (copies(turn),), watch)

        def copy(turn: Turn) -> Tensor:
            copied = copies(turn)
            gap = (turn.rows - copied).square().sum(dim=1)
            loss: Tensor = rules.persuade(net.critic(copied)) + config.copying * gap
            return loss

        return [
            Player([net.critic], judge, starts_over=watch.stuck),
            Player([net.encoder, net.decoder], copy),
        ]

    # -- scoring ----------------------------------------------------------------------------

    def _parts(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts of the score before they are weighed, ``[B, 2]``, and the copies."""
        copies = self._net.copy(boxed(rows)) * real
        opinion = torch.sigmoid(-self._net.critic(copies))
        return torch.stack([opinion, mean_square(rows - copies, real)], dim=1), copies

    def _calibrate(self, rows: Tensor, odd: Tensor, real: Tensor) -> None:
        normal = self._parts(rows, real)[0]
        self._weights = 1 / normal.std(dim=0, correction=0).clamp(min=LEAST)
        if separation(normal[:, 0], self._parts(odd, real)[0][:, 0]) < CHANCE:
            self._weights[0] = 0.0

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        parts, copies = self._parts(rows, real)
        score = parts[:, 0] if self.config.score == "judge" else parts @ self._weights
        return Found(score, (rows - copies).square(), copies)

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "weights": self._weights}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._weights = state["weights"]
