"""LSTM encoder-decoder: a window that cannot be told again from its summary is anomalous."""

from __future__ import annotations

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.loops.pooling import Pool
from detectors.loops.stage import Count, Positive, Share, Training
from detectors.nets.embedding import SequenceInput
from detectors.nets.heads import Guess, RebuildingNet, WindowHead
from detectors.nets.lstm import LstmDecoder, LstmEncoder
from detectors.nets.recurrent import reverse_real
from detectors.sequence_autoencoder import SequenceAutoencoder


class LstmAutoencoderNet(RebuildingNet):
    """Reads a window into a code and tells it again from the code, last step first."""

    def __init__(self, features: int, vocab: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.input = SequenceInput(features, vocab)
        self.encoder = LstmEncoder(self.input.width, hidden)
        self.decoder = LstmDecoder(hidden, hidden)
        self.head = WindowHead(hidden, features, vocab)

    def forward(self, data: WindowBatch) -> Guess:
        """Return the reconstruction, in the order of the window."""
        code = self.encoder(self.input(data), data.mask)
        unrolled = self.decoder(code, data.steps)
        guess: Guess = self.head(reverse_real(unrolled, data.mask))
        return guess


class LstmAutoencoder(SequenceAutoencoder):
    """Reconstruction of a window from the state of an LSTM that has read it.

    An encoder reads ``x_1 .. x_T``; a decoder emits the window backwards from the last state. The
    errors ``e_t = x_t - xhat_t`` of held-out windows give a mean and a covariance, and a step
    scores the squared Mahalanobis distance of its error to them; a category adds twice
    ``-log p(id)``, in which a new value has a surcharge of ``log V`` nats, or more where new values
    are rare.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``; about ``4 T H (F + 3 H)`` multiply-adds a window.

    Notes
    -----
    Adaptations: the decoder is fed the code at every step instead of its own last output, so that
    a window takes two fused calls rather than ``T`` small ones, and training needs no teacher;
    errors keep their sign, so that a perfect copy is the least anomalous; categories, the shrinking
    of the covariance and the trimming of the worst windows are added.

    References
    ----------
    Malhotra et al. 2016, *LSTM-based encoder-decoder for multi-sensor anomaly detection*. Survey:
    Pang et al. 2020, section 5.1.1.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        hidden
            Size ``H`` of the states and of the code.
        pooling
            A window scores the ``mean`` or the ``max`` of its steps, or the more unusual of
            ``both``.
        """

        hidden: Count = 64
        pooling: Pool = "both"
        trim: Share = 0.01
        steps_per_epoch: Count = 35
        learning_rate: Positive = 3e-3

    caps = Capabilities(
        name="lstm_ae",
        section="5.1.1",
        supervision="semi-supervised",
        kinds=("series", "events"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        cost="small",
        loop="reconstruction",
        sources=("WAVES", "GRAMMAR"),
    )

    chunk = 512  # states of a chunk stay in the processor's cache: half again as fast as 8192

    def _build(self) -> LstmAutoencoderNet:
        shape = self._fitted()
        net = LstmAutoencoderNet(shape.features, shape.vocab, self.config.hidden)
        return net.to(self.device)
