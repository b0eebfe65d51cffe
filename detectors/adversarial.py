"""What adversarial detectors share: boxed rows, players in turns, weights chosen by the fringe."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.boxed import BoxedInput
from detectors.detector import Budget, Detector, Shape
from detectors.device import beside
from detectors.loops.adversarial import Game, Rules, Turn, Watch, fringe, separation
from detectors.loops.batches import minibatches, split
from detectors.loops.stage import Count, Player, Positive, Run, Share, Stage, Training, gentle
from detectors.loops.training import play
from detectors.nets.modules import load_module, module_state
from detectors.scores import Explain, Scores

JUDGED = 2000
"""Held-out windows, the latest ones, that weights are chosen by; more would only cost time."""


class AdversarialTraining(Training, frozen=True, kw_only=True):
    """Settings of every adversarial detector, besides those of every training.

    Attributes
    ----------
    average
        Decay of the running average of the weights that scores are computed with.
    """

    average: Share = 0.999
    epochs: Count = 50
    learning_rate: Positive = 2e-4
    clip: Positive = 5.0
    patience: Count = 10


class Found(NamedTuple):
    """What a detector finds in rows ``[B, D]``.

    Attributes
    ----------
    score
        ``[B]``.
    share
        ``[B, D]``: what each entry adds, by any measure; at least 0.
    copies
        ``[B, D]`` rows as they should be, where there are any.
    """

    score: Tensor
    share: Tensor
    copies: Tensor | None = None


class AdversarialDetector(Detector):
    """Networks that play against each other over the flat rows of windows.

    Subclasses build the networks (``_network``), say who learns what (``_players``), and how rows
    score (``_examine``). Training shows rows clipped to the box that makers can reach.
    """

    chunk = 2048  # intermediate results stay in the processor's cache
    _net: nn.Module

    # -- what a subclass provides -----------------------------------------------------------

    @abstractmethod
    def _network(self, columns: int) -> nn.Module:
        """Return all networks, new, for rows of ``columns`` numbers."""

    @abstractmethod
    def _players(self) -> Sequence[Player[Turn]]:
        """Who changes which parts of ``self._net``, and to what end."""

    @abstractmethod
    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        """Score rows ``[B, D]``, not clipped, whose entries are ``real`` where that is 1.

        Rows may be changed. Without ``explain``, only the score is looked at.
        """

    def _calibrate(self, rows: Tensor, odd: Tensor, real: Tensor) -> None:
        """Learn what scores are weighed by from held-out rows and their fringe.

        Called whenever weights are judged, the last time with those that are kept.
        """

    @property
    def _rules(self) -> Rules:
        """How judges and makers value logits."""
        return Rules("bce")

    def _watch(self) -> Watch:
        """Return the guard of a judge."""
        return Watch(self._rules.game)

    def _code(self) -> int:
        """Numbers that a row is made from."""
        code: int = self.config.code
        return code

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``[count, K]`` on the CPU, so that every device draws the same."""
        return torch.randn(count, self._code(), generator=generator)

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._fit_rows(data, Run(self.seed, budget, self.report))

    def _fit_rows(self, data: WindowBatch, run: Run) -> None:
        """Learn from windows that become rows as they are."""
        self._input = BoxedInput.fit(data)
        self._net = self._build()
        self._learn(run, *split(data))

    def _learn(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        """Learn all that there is to learn."""
        self._compete(self._stage(run), self._players(), early, late)

    def _stage(self, run: Run) -> Stage:
        average, betas = self.config.average, self._rules.betas
        return Stage(self._net, self.config, run, betas=betas, average=average)

    def _teach_judge(self, data: WindowBatch, budget: Budget) -> None:
        """Teach the judge, who is the first of the players, a little more from new windows."""
        run = Run.of_update(self.seed, budget, self.report)
        stage = replace(self._stage(run), settings=gentle(self.config))
        self._compete(stage, self._players()[:1], *split(data))

    def _compete(
        self,
        stage: Stage,
        players: Sequence[Player[Turn]],
        early: WindowBatch,
        late: WindowBatch,
        measure: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> float:
        """Let players move in turns; keep the weights that tell held-out rows from the fringe best.

        Parameters
        ----------
        measure
            Rows and real entries to what is to be low on normal rows; the score if left out.

        Returns
        -------
        float
            Share of the pairs of a held-out row and one on the fringe in the wrong order.
        """
        size = measure or self._measure
        generator = torch.Generator().manual_seed(stage.run.seed)
        rows, real = self._input(late[-JUDGED:])
        odd = fringe(rows, real, generator)

        def validate() -> float:
            with torch.no_grad():
                self._calibrate(rows, odd, real)
                return 1 - separation(size(rows, real), size(odd, real))

        def draw(generator: torch.Generator) -> Iterator[Turn]:
            return self._turns(stage, early, generator)

        play(stage, draw, players, validate=validate)
        return validate()

    def _best_of(self, attempts: int, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        """Train anew several times, each with its part of the budget, and keep the best."""
        best, weights = math.inf, self._net.state_dict()
        for attempt in range(attempts):
            if attempt:
                self._net = self._build()
            stage = replace(self._stage(run), share=(attempt + 1) / attempts)
            wrong = self._compete(stage, self._players(), early, late)
            if wrong < best:
                best, weights = wrong, self._net.state_dict()
        self._net.load_state_dict(weights)

    def _measure(self, rows: Tensor, real: Tensor) -> Tensor:
        """Scores ``[B]``."""
        parts = zip(
            torch.split(rows.clone(), self.chunk), torch.split(real, self.chunk), strict=True
        )
        return torch.cat([self._examine(*part, explain=False).score for part in parts])

    def _turns(self, stage: Stage, data: WindowBatch, generator: torch.Generator) -> Iterator[Turn]:
        # new ids stay unseen: their columns are the same everywhere, and stand out when they differ
        for batch in minibatches(data, stage.settings, generator, new_ids=False):
            rows, real = self._input(batch)
            noise = beside(self._noise(len(rows), generator), rows)
            yield Turn(boxed(rows), real, noise)

    # -- scoring ----------------------------------------------------------------------------

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        rows, real = self._input(data, consume=True)
        if explain == "none":
            return Scores(self._examine(rows, real, explain=False).score)
        found = self._examine(rows, real, explain=True)
        return self._input.explained(data, found.score, found.share, found.copies)

    # -- files ------------------------------------------------------------------------------

    def _row_shape(self) -> Shape:
        """Sizes of the windows that become rows."""
        return self._fitted()

    def _build(self) -> nn.Module:
        return self._network(self._input.width).to(self.device)

    def _state(self) -> dict[str, Tensor]:
        return {**self._input.state("input."), **module_state(self._net, "net.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        self._input = BoxedInput.from_state(state, "input.", self._row_shape())
        self._net = self._build()
        load_module(self._net, state, "net.")


class GenerativeTraining(AdversarialTraining, frozen=True, kw_only=True):
    """Settings of detectors that may play any game.

    Attributes
    ----------
    game
        What judges and makers make of a logit: ``bce``, ``hinge``, ``lsgan`` or ``wgan_gp``.
    smoothing
        What the target of real rows lies below 1, lest a judge grow too sure; only for ``bce``.
    """

    game: Game = "bce"
    smoothing: Share = 0.1


class GenerativeDetector(AdversarialDetector):
    """Compares rows with what a maker that plays by the configured rules makes of them."""

    @property
    def _rules(self) -> Rules:
        return Rules(self.config.game, self.config.smoothing)


def boxed(rows: Tensor) -> Tensor:
    """Clip rows to where makers can follow."""
    return rows.clamp(-1.0, 1.0)


def uniform(count: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw ``[count, columns]`` evenly from the box, on the CPU."""
    return 2 * torch.rand(count, columns, generator=generator) - 1


def mean_square(gap: Tensor, real: Tensor) -> Tensor:
    """Mean square ``[B]`` of gaps ``[B, D]`` over the real entries."""
    return (gap.square() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def absolute(gap: Tensor, real: Tensor) -> Tensor:
    """L1 norm ``[B]`` of gaps ``[B, D]``, scaled up from the real entries to all."""
    return (gap.abs() * real).sum(dim=1) * gap.shape[1] / real.sum(dim=1).clamp(min=1)
