"""OCGAN: codes of normal windows fill a bounded space, so that nothing else can be copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detectors.adversarial import (
    AdversarialDetector,
    AdversarialTraining,
    Found,
    boxed,
    mean_square,
    uniform,
)
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.device import beside
from detectors.loops.adversarial import Turn
from detectors.loops.stage import Count, Player, Positive, Run, Weight
from detectors.nets.adversarial import Critic, encoder, generator
from detectors.nets.autoencoder import code_width

MINING_STEPS, MINING_STEP = 5, 0.1
"""Steps of the search for codes of poor windows, and how far each of them goes."""

COPYING = 10.0
"""Weight of the mean squared gap of window and copy against what the judges say."""


class OcganNet(nn.Module):
    """Copier with a bounded code, a judge of codes, a judge of rows, and a weak classifier."""

    def __init__(self, columns: int, hidden: tuple[int, ...], code: int) -> None:
        super().__init__()
        self.encoder = encoder(columns, hidden, code).append(nn.Tanh())
        self.decoder = generator(code, hidden[::-1], columns)
        self.of_codes = Critic(code, hidden[::-1])
        self.of_rows = Critic(columns, hidden)
        self.weak = Critic(columns, hidden[-1:])


class Ocgan(AdversarialDetector):
    """Squared distance ``||x - De(En(x))||²`` of a window and its copy, per real entry.

    Codes are bounded, ``En(x)`` in ``(-1, 1)^K``, and a judge of codes makes them fill that space
    evenly. A judge of rows sees what the decoder makes of codes drawn from all of it: every code
    has to stand for a normal window. What is not normal is then copied as something that is. Codes
    for the judge of rows are mined: a weak classifier leads each some steps towards windows that
    look least like copies of real ones, which are where the decoder has most to learn.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``260 D + 17,000`` multiply-adds a window.

    Notes
    -----
    ``score="judge"`` is ``1 - Dv(De(En(x)))``, what the judge of rows says of the copy.
    Explanations spread the score over the fields by the squared distance of window and copy. A
    judge that has long been sure starts over.

    Adaptations: dense layers in place of convolutions; windows are flattened; columns are mapped to
    -1 .. 1 by quantiles; narrower codes where columns are few; the copier's squared error is a mean
    over the real entries, so that its weight does not depend on how many there are; mining begins
    after some mini-batches and takes steps of one length; larger steps over larger mini-batches
    than in the paper; a running average of the weights; weights are chosen by how the score tells
    held-out windows from synthetic ones around them. Other losses than the cross-entropy are left
    out.

    References
    ----------
    Perera et al. 2019, *OCGAN: one-class novelty detection using GANs with constrained latent
    representations*. Survey: Pang et al. 2020, section 6.4.
    """

    class Config(AdversarialTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every adversarial detector.

        Attributes
        ----------
        hidden
            Widths of the hidden layers of encoder and judge of rows; the others have them in
            reverse.
        code
            ``K``; an eighth of the columns up to 32 if left out.
        noise
            Spread of the noise that training adds, where -1 .. 1 is the box of the data.
        mining_after
            Mini-batches before codes are mined.
        score
            Distance of window and copy (``residual``), or what the ``judge`` of rows says.
        """

        hidden: tuple[Count, ...] = (128, 64)
        code: Count | None = None
        noise: Weight = 0.2
        mining_after: Count = 200
        score: Literal["residual", "judge"] = "residual"
        learning_rate: Positive = 1e-3

    caps = Capabilities(
        name="ocgan",
        section="6.4",
        supervision="semi-supervised",
        kinds=("record", "series"),
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="small",
        loop="adversarial",
        sources=("SUBSPACE",),
    )
    _net: OcganNet
    _run: Run

    def _network(self, columns: int) -> nn.Module:
        return OcganNet(columns, self.config.hidden, self._code())

    def _code(self) -> int:
        return self.config.code or min(32, code_width(self._input.width))

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        return uniform(count, self._code(), generator)

    def _learn(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        self._run = run
        super()._learn(run, early, late)

    def _players(self) -> Sequence[Player[Turn]]:
        net, rules = self._net, self._rules
        codes_watch, rows_watch = self._watch(), self._watch()

        def tell_apart(turn: Turn) -> Tensor:
            made = net.decoder(turn.noise) * turn.real
            copies = net.decoder(self._noisy_code(turn)) * turn.real
            return rules.duel(net.weak, (copies,), (made,))

        def judge_codes(turn: Turn) -> Tensor:
            codes = self._noisy_code(turn)
            return rules.duel(net.of_codes, (turn.noise,), (codes,), codes_watch)

        def judge_rows(turn: Turn) -> Tensor:
            return rules.duel(net.of_rows, (turn.rows,), (self._mined_rows(turn),), rows_watch)

        def copy(turn: Turn) -> Tensor:
            code = self._noisy_code(turn)
            gap = mean_square(turn.rows - net.decoder(code), turn.real)
            fooled = rules.persuade(net.of_codes(code))
            return COPYING * gap + fooled + rules.persuade(net.of_rows(self._mined_rows(turn)))

        return [
            Player([net.weak], tell_apart),
            Player([net.of_codes], judge_codes, starts_over=codes_watch.stuck),
            Player([net.of_rows], judge_rows, starts_over=rows_watch.stuck),
            Player([net.encoder, net.decoder], copy),
        ]

    def _noisy_code(self, turn: Turn) -> Tensor:
        noise = self.config.noise * beside(torch.randn(turn.rows.shape), turn.rows)
        code: Tensor = self._net.encoder((turn.rows + noise) * turn.real)
        return code

    def _mined_rows(self, turn: Turn) -> Tensor:
        """Decode codes, mined once there is something to mine for."""
        codes = turn.noise
        if self._run.steps >= self.config.mining_after:
            codes = self._mined(codes, turn.real)
        rows: Tensor = self._net.decoder(codes) * turn.real
        return rows

    def _mined(self, codes: Tensor, real: Tensor) -> Tensor:
        """Lead codes ``[B, K]`` to where the weak classifier takes rows least for copies."""
        net = self._net
        for _ in range(MINING_STEPS):
            point = codes.detach().requires_grad_()
            logits = net.weak(net.decoder(point) * real)
            slope = torch.autograd.grad(logits.sum(), point)[0]
            step = slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
            codes = (point.detach() - MINING_STEP * step).clamp(-1.0, 1.0)
        return codes

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        copies = self._net.decoder(self._net.encoder(boxed(rows))) * real
        gap = (rows - copies).square()
        if self.config.score == "judge":
            return Found(torch.sigmoid(-self._net.of_rows(copies)), gap, copies)
        return Found(mean_square(rows - copies, real), gap, copies)
