"""What one-class networks share: an encoder without constants, its pre-training, its centre."""

from __future__ import annotations

from functools import partial

import msgspec
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.detector import Budget, Detector
from detectors.inputs import LEAST_SPAN, RecordInput
from detectors.loops.attribution import from_nearest, spread_out
from detectors.loops.batches import evaluate, split
from detectors.loops.one_class import initial_centre, squared_distance
from detectors.loops.reconstruction import reconstruct
from detectors.loops.stage import Count, Positive, Run, Share, Stage, Training
from detectors.nets.embedding import SequenceInput
from detectors.nets.gru import Gru
from detectors.nets.heads import Guess, WindowHead
from detectors.nets.lstm import LstmDecoder
from detectors.nets.mlp import mlp
from detectors.nets.modules import load_module, module_state
from detectors.nets.tcn import Tcn, blocks_for
from detectors.scores import Explain, Scores

PRETRAIN_RATE = 1e-3
"""Learning rate of the autoencoder, which starts from nothing."""

NEW_REACH = 3.0
"""Length of the embedding of a new value, in typical lengths of the others."""


_leaky = partial(nn.LeakyReLU, inplace=True)


class _Stepwise(nn.Module):
    """A feed-forward network over each step by itself."""

    def __init__(self, columns: int, hidden: int) -> None:
        super().__init__()
        layers = mlp([columns, 2 * hidden, hidden], bias=False, activation=_leaky)
        self.layers = layers.append(_leaky())

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, columns]`` to ``[B, T, hidden]``."""
        result: Tensor = self.layers(steps) * mask.unsqueeze(-1)
        return result


class OneClassEncoder(nn.Module):
    """Columns of a window to its code, without a constant anywhere.

    Records go through a feed-forward network, numbers over time through causal convolutions, bare
    events through a GRU; the mean over the steps of the result is mapped to the code.
    """

    def __init__(self, columns: int, steps: int, numbers: bool, hidden: int, code: int) -> None:
        super().__init__()
        self.body: nn.Module
        if steps == 1:
            self.body = _Stepwise(columns, hidden)
        elif numbers:
            blocks = blocks_for(steps)
            self.body = Tcn(columns, hidden, blocks, bias=False, activation=nn.LeakyReLU)
        else:
            self.body = Gru(columns, hidden, bias=False)
        self.project = nn.Linear(hidden, code, bias=False)

    def forward(self, columns: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, columns]`` and ``mask [B, T]`` to ``[B, code]``."""
        hidden = self.body(columns, mask)
        mean = hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        code: Tensor = self.project(mean)
        return code


class OneClassDecoder(nn.Module):
    """From a code back to the window; only for pre-training, and free to use constants."""

    def __init__(self, features: int, vocab: tuple[int, ...], hidden: int, code: int) -> None:
        super().__init__()
        self.unroll = LstmDecoder(code, hidden)
        self.head = WindowHead(hidden, features, vocab)

    def forward(self, code: Tensor, steps: int) -> Guess:
        """``[B, code]`` to the expected steps."""
        guess: Guess = self.head(self.unroll(code, steps))
        return guess


class OneClassTraining(Training, frozen=True, kw_only=True):
    """Settings of every one-class network.

    Attributes
    ----------
    hidden, code
        Widths of the encoder and of its code. Over time the encoder is half as wide, because
        each step costs as much as a record.
    pretrain_epochs
        Epochs as an autoencoder.
    """

    hidden: Count = 64
    code: Count = 32
    pretrain_epochs: Count = 15
    epochs: Count = 30
    steps_per_epoch: Count = 50
    batch: Count = 200
    learning_rate: Positive = 1e-3
    weight_decay: float = 1e-6
    trim: Share = 0.0


class OneClassNetwork(Detector):
    """Squared distance of a window's code to a centre; subclasses train the encoder.

    Against collapse, a network that maps everything to the centre: no layer of the encoder has a
    constant, the centre stays off zero, activations are unbounded (leaky ReLU).
    """

    chunk = 1024  # states of a chunk stay in the processor's cache: three times as fast as 8192
    _reader: RecordInput | SequenceInput

    def _at_once(self, steps: int) -> int:
        # records have no states: what they need of the cache is little
        return super()._at_once(steps) * (8 if steps == 1 else 1)

    # -- learning ---------------------------------------------------------------------------

    def _begin(self, data: WindowBatch, budget: Budget) -> Run:
        """Learn all but the encoder's last training: ranges, pre-training, centre, examples."""
        early, late = split(data)
        self._reader = self._new_reader(data)
        self._learn_range(data)
        self._encoder = self._new_encoder()
        run = Run(self.seed, budget, self.report)
        self._pretrain(run, early, late)
        self._centre = initial_centre(evaluate(self._codes, data, self.config.batch))
        self._examples = self._columns(spread_out(data))
        return run

    def _pretrain(self, run: Run, early: WindowBatch, late: WindowBatch) -> None:
        """Train encoder and, for sequences, embeddings as one half of an autoencoder."""
        shape, config = self._fitted(), self.config
        decoder = OneClassDecoder(shape.features, shape.vocab, self._width(), config.code)
        parts: list[nn.Module] = [self._encoder, decoder.to(self.device)]
        if isinstance(self._reader, SequenceInput):
            parts.append(self._reader)
        settings = msgspec.structs.replace(
            config, epochs=config.pretrain_epochs, learning_rate=PRETRAIN_RATE
        )
        # half of a budget, lest pre-training leave nothing to what it prepares
        stage = Stage(nn.ModuleList(parts), settings, run, share=0.5)
        reconstruct(stage, early, late, lambda part: decoder(self._codes(part), part.steps))
        if isinstance(self._reader, SequenceInput):
            self._reader.push_out_new(NEW_REACH)

    def _new_reader(self, data: WindowBatch) -> RecordInput | SequenceInput:
        shape = self._fitted()
        if shape.steps == 1:
            return RecordInput.fit(data)
        return SequenceInput(shape.features, shape.vocab).to(self.device)

    def _new_encoder(self) -> OneClassEncoder:
        shape, config = self._fitted(), self.config
        columns, numbers = len(self._low), shape.features > 0
        encoder = OneClassEncoder(columns, shape.steps, numbers, self._width(), config.code)
        return encoder.to(self.device)

    def _width(self) -> int:
        """Width of the encoder: half over time."""
        hidden: int = self.config.hidden
        return hidden if self._fitted().steps == 1 else max(1, hidden // 2)

    def _learn_range(self, data: WindowBatch) -> None:
        """Range of the columns over the windows of the fit."""
        raw = evaluate(lambda part: self._reader(part)[part.mask], data, self.config.batch)
        self._low = raw.amin(dim=0)
        self._span = raw.amax(dim=0) - self._low
        self._span[self._span < LEAST_SPAN] = 1.0
        if isinstance(self._reader, SequenceInput):  # embeddings are still to be learned
            self._low[data.features :] = 0.0
            self._span[data.features :] = 1.0

    # -- scoring ----------------------------------------------------------------------------

    def _columns(self, data: WindowBatch) -> Tensor:
        """``[B, T, E]``, numbers and one-hot columns in 0 .. 1 where the fit was."""
        shifted = self._reader(data) - self._low
        return shifted.div_(self._span).mul_(data.mask.unsqueeze(-1))

    def _codes(self, data: WindowBatch) -> Tensor:
        codes: Tensor = self._encoder(self._columns(data), data.mask)
        return codes

    def _distances(self, data: WindowBatch) -> Tensor:
        return self._distance(self._columns(data), data.mask)

    def _distance(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Score ``[B, T, E]`` and ``mask [B, T]``, ``[B]``."""
        return squared_distance(self._encoder(columns, mask), self._centre)

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        columns = self._columns(data)
        score = self._distance(columns, data.mask)
        if explain == "none":
            return Scores(score)
        share = from_nearest(self._distance, columns, data.mask, self._examples)
        feature = self._reader.attribute(share)
        return Scores(score, feature.sum(dim=-1), feature)

    # -- files ------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        reader = self._reader
        return {
            **module_state(self._encoder, "encoder."),
            **(
                reader.state("reader.")
                if isinstance(reader, RecordInput)
                else module_state(reader, "reader.")
            ),
            "low": self._low,
            "span": self._span,
            "examples": self._examples,
            "centre": self._centre,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        shape = self._fitted()
        self._low, self._span = state["low"], state["span"]
        self._examples, self._centre = state["examples"], state["centre"]
        if shape.steps == 1:
            self._reader = RecordInput.from_state(state, "reader.", shape)
        else:
            self._reader = SequenceInput(shape.features, shape.vocab).to(self.device)
            load_module(self._reader, state, "reader.")
        self._encoder = self._new_encoder()
        load_module(self._encoder, state, "encoder.")
