"""OCAN: a maker fills where normal sessions are not, and a judge learns to tell the two apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from detectors.adversarial import AdversarialTraining
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget, Shape
from detectors.device import beside
from detectors.judge import REACH, JudgeDetector
from detectors.loops.adversarial import Turn, cross_entropy
from detectors.loops.attribution import path_gradient
from detectors.loops.batches import evaluate, split
from detectors.loops.reconstruction import reconstruct
from detectors.loops.stage import Count, Player, Positive, Run, Stage, Weight
from detectors.lstm_ae import LstmAutoencoderNet
from detectors.nets.adversarial import Critic, generator
from detectors.nets.embedding import SequenceInput
from detectors.nets.lstm import LstmEncoder
from detectors.nets.modules import load_module, module_state
from detectors.one_class import NEW_REACH
from detectors.scores import Explain, Scores

HIDDEN = (100, 50)
"""Widths of the judge's hidden layers; the maker has the same in reverse."""

DENSITY_STEPS = 300
"""Mini-batches that learning the density has at least, however few make an epoch."""

LEAST = 1e-3
"""Density below which a made vector is far enough from the dense places to be let alone."""

READING, DENSITY = 0.4, 0.55
"""Shares of a budget that are used up when sessions can be read, and when the density is known."""


class OcanNet(nn.Module):
    """Maker ``50 - 100 - D`` with an output in -1 .. 1, and judge ``D - 100 - 50 - 1``."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.generator = generator(HIDDEN[1], HIDDEN[:1], columns)
        self.critic = Critic(columns, HIDDEN)


class Reader(nn.Module):
    """The half of an LSTM autoencoder that reads sessions."""

    def __init__(self, source: SequenceInput, encoder: LstmEncoder) -> None:
        super().__init__()
        self.input, self.encoder = source, encoder

    def forward(self, data: WindowBatch) -> Tensor:
        """State ``[B, H]`` after the last real step."""
        state: Tensor = self.encoder(self.input(data), data.mask)
        return state


class Ocan(JudgeDetector):
    """Surprise ``-log D(v)`` of a judge that has seen normal sessions and their complement.

    A session becomes a vector ``v``, the last state of an LSTM autoencoder that has learned to tell
    normal sessions again; a record is its own vector. A complementary maker ``G`` then minimises
    the sum of a pull-away term, which spreads what it makes; ``log p(G(z))`` where that is above
    ``eps``, which drives it out of where normal vectors are dense; and
    ``||E h(G(z)) - E h(v)||``, which keeps it near them. The judge ``D`` minimises
    ``-log D(v) - log(1 - D(G(z)))``, and ``-entropy D(v) log D(v)``, which keeps it firm on normal
    vectors. Density ``p`` is what a network like the judge has learned to tell normal vectors from
    uniform ones by.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit; about
    ``100 D + 5,000`` multiply-adds a vector of ``D`` columns, and ``4 T H (F + H)`` to read a
    session into ``H`` of them.

    Notes
    -----
    The state after any step is the vector of the session so far: sessions are scored before they
    end. What is odd has to last until then: of a single odd step long ago, the last state and so
    the explanation may keep nothing. The score ranks as ``1 - D(v)`` does, and goes on rising where
    that is 1 but for rounding.

    Explanations integrate its gradient: for records, on the way from the nearest of some records of
    the fit, for sessions from a session of typical numbers and no events. They tell which steps the
    score of the whole session comes from; when it first rose is told by scoring its beginnings.

    Adaptations: the density's other class is uniform draws from the box of the data; ``eps`` is
    halfway between the largest and smallest density of a mini-batch; Adam for the judge as well;
    columns are mapped to -1 .. 1 by quantiles; a running average of the weights; weights are chosen
    by how the score tells held-out vectors from synthetic ones around them. Losses without
    probabilities are left out.

    References
    ----------
    Zheng et al. 2019, *One-class adversarial nets for fraud detection*; Dai et al. 2017, *Good
    semi-supervised learning that requires a bad GAN*. Survey: Pang et al. 2020, section 6.4,
    equations 47-48.
    """

    class Config(AdversarialTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every adversarial detector.

        Attributes
        ----------
        hidden
            Size ``H`` of the states that sessions are read into.
        entropy
            Weight of the judge's firmness on normal vectors.
        reading_epochs, density_epochs
            Epochs of learning to read sessions, and to know where vectors are dense; of the latter
            more where windows are few.
        """

        hidden: Count = 50
        entropy: Weight = 1.85
        reading_epochs: Count = 20
        density_epochs: Count = 10
        learning_rate: Positive = 1e-3

    caps = Capabilities(
        name="ocan",
        section="6.4",
        supervision="semi-supervised",
        kinds=("record", "series", "events"),
        partial_fit="head-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="small",
        loop="adversarial",
        sources=("SUBSPACE",),
    )
    _net: OcanNet

    def _network(self, columns: int) -> nn.Module:
        return OcanNet(columns)

    def _code(self) -> int:
        return HIDDEN[1]

    # -- learning ---------------------------------------------------------------------------

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        run = Run(self.seed, budget, self.report)
        if data.steps > 1:
            self._reader = self._read(run, data)
        self._fit_rows(self._vectors(data), run)

    def _read(self, run: Run, data: WindowBatch) -> Reader:
        """Learn to tell sessions again; keep what reads them."""
        net = self._autoencoder()
        settings = msgspec.structs.replace(self.config, epochs=self.config.reading_epochs)
        reconstruct(Stage(net, settings, run, share=READING), *split(data))
        net.input.push_out_new(NEW_REACH)
        return Reader(net.input, net.encoder)

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._partial_fit(self._vectors(data), labels, budget)

    def _learn(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        density = self._learn_density(run, early, late)
        players = [*self._players(), self._maker(density)]
        self._compete(self._stage(run), players, early, late)

    def _maker(self, density: Callable[[Tensor], Tensor]) -> Player[Turn]:
        net = self._net

        def make(turn: Turn) -> Tensor:
            made = net.generator(turn.noise)
            features = net.critic.features(made)
            gap = net.critic.features(turn.rows).mean(dim=0) - features.mean(dim=0)
            dense = dense_part(density(made))
            spread: Tensor = pull_away(features) + torch.linalg.vector_norm(gap)
            return dense + spread

        return Player([net.generator], make)

    def _learn_density(self, run: Run, early: WindowBatch, late: WindowBatch) -> Critic:
        """Learn to tell vectors from uniform draws out of the box."""
        density = Critic(self._input.width, HIDDEN).to(self.device)

        def tell_apart(turn: Turn) -> Tensor:
            uniform = 2 * beside(torch.rand(turn.rows.shape), turn.rows) - 1
            real = cross_entropy(density(turn.rows), 1.0)
            return real + cross_entropy(density(uniform), 0.0)

        config = self.config
        steps = min(config.steps_per_epoch, math.ceil(len(early) / config.batch))
        epochs = max(config.density_epochs, math.ceil(DENSITY_STEPS / steps))
        settings = msgspec.structs.replace(config, epochs=epochs)
        stage = Stage(density, settings, run, share=DENSITY)
        player = Player([density], tell_apart)
        self._compete(stage, [player], early, late, lambda rows, real: -density(rows))
        return density

    def _players(self) -> Sequence[Player[Turn]]:
        net, entropy = self._net, self.config.entropy

        def judge(turn: Turn) -> Tensor:
            on_real = net.critic(turn.rows)
            loss: Tensor = cross_entropy(on_real, 1.0)
            loss = loss + cross_entropy(net.critic(net.generator(turn.noise)), 0.0)
            firm: Tensor = torch.sigmoid(on_real) * logsigmoid(on_real)
            loss = loss - entropy * firm
            return loss

        return [Player([net.critic], judge)]

    # -- scoring ----------------------------------------------------------------------------

    def _logits(self, rows: Tensor) -> Tensor:
        logits: Tensor = self._net.critic(rows)
        return logits

    def _vectors(self, data: WindowBatch) -> WindowBatch:
        """Return records as they are, sessions as records of the states they are read into."""
        if self._fitted().steps == 1:
            return data
        states = evaluate(self._reader, data, self.config.batch)
        empty = data.cat.new_zeros((len(data), 1, 0))
        return WindowBatch(states.unsqueeze(1), empty, torch.ones_like(data.mask[:, :1]))

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        if self._fitted().steps == 1:
            return super()._score(data, explain)
        score = super()._score(self._vectors(data), "none").score
        if explain == "none":
            return Scores(score)
        with torch.inference_mode(False):
            mask = data.mask.clone()  # what inference mode has made takes no part in gradients

        def surprise(columns: Tensor) -> Tensor:
            states = self._reader.encoder(columns, mask)
            return self._surprise(self._input.place(states).clamp(-REACH, REACH))

        columns = self._reader.input(data) * data.mask.unsqueeze(-1)
        share = path_gradient(surprise, torch.zeros_like(columns), columns)
        fields = self._reader.input.attribute(share)
        return Scores(score, fields.sum(dim=-1), fields)

    # -- files ------------------------------------------------------------------------------

    def _autoencoder(self) -> LstmAutoencoderNet:
        shape = self._fitted()
        net = LstmAutoencoderNet(shape.features, shape.vocab, self.config.hidden)
        return net.to(self.device)

    def _row_shape(self) -> Shape:
        shape = self._fitted()
        return shape if shape.steps == 1 else Shape(1, self.config.hidden, ())

    def _state(self) -> dict[str, Tensor]:
        if self._fitted().steps == 1:
            return super()._state()
        return {**super()._state(), **module_state(self._reader, "reader.")}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        if self._fitted().steps > 1:
            net = self._autoencoder()
            self._reader = Reader(net.input, net.encoder)
            load_module(self._reader, state, "reader.")


def pull_away(features: Tensor) -> Tensor:
    """``[]``: mean squared cosine of the features ``[n, H]`` of different vectors; 0 for one."""
    n = len(features)
    directions = normalize(features, dim=1)
    squares = (directions @ directions.T).square()
    return (squares.sum() - squares.diagonal().sum()) / max(1, n * (n - 1))


def dense_part(logits: Tensor) -> Tensor:
    """``[n]``: log-density of what lies above the middle of the range; the rest costs nothing.

    It is bounded from below: where all is sparse there is nothing to be driven out of.
    """
    density = torch.sigmoid(logits).detach()
    eps = (density.max() + density.min()) / 2
    return logsigmoid(logits).clamp(min=math.log(LEAST)) * (density > eps)
