"""Convolutional autoencoder: local shapes that cannot be told again from a few numbers."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.device import beside
from detectors.loops.pooling import Pool
from detectors.loops.stage import Count, Positive, Share, Training
from detectors.nets.conv import ConvAutoencoder
from detectors.nets.embedding import SequenceInput
from detectors.nets.heads import Guess, RebuildingNet, WindowHead
from detectors.sequence_autoencoder import SequenceAutoencoder


class ConvAutoencoderNet(RebuildingNet):
    """Rebuilds a window from codes of a quarter of its steps."""

    def __init__(
        self, features: int, vocab: tuple[int, ...], width: int, code: int, noise: float
    ) -> None:
        super().__init__()
        self.noise = noise
        self.input = SequenceInput(features, vocab)
        self.body = ConvAutoencoder(self.input.width, width, code)
        self.head = WindowHead(width, features, vocab)

    def forward(self, data: WindowBatch) -> Guess:
        """Return the reconstruction; in training, of a window with a little noise."""
        steps = self.input(data)
        if self.training:
            noise = beside(torch.randn(steps.shape), steps)
            steps = (steps + self.noise * noise) * data.mask.unsqueeze(-1)
        guess: Guess = self.head(self.body(steps, data.mask))
        return guess


class CnnAutoencoder(SequenceAutoencoder):
    """Reconstruction of a window from convolutional codes of every fourth step.

    Convolutions over time, with the features as channels, halve the time twice; transposed ones
    bring it back. A step scores the squared Mahalanobis distance of its error to the errors of
    held-out windows.

    Shapes
    ------
    Windows ``[B, T, F + C]`` of any ``T``; about ``2.5 T (F W + 3 W^2)`` multiply-adds a window for
    ``W = width``, in parallel over the steps.

    Notes
    -----
    Adaptations: windows of records take the place of images, time that of their two axes; errors
    are whitened; scores need no extremes of a whole recording, which a stream does not have;
    categories, and the trimming of the worst windows, are added.

    References
    ----------
    Hasan et al. 2016, *Learning temporal regularity in video sequences*. Survey: Pang et al. 2020,
    section 5.1.1.
    """

    class Config(Training, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every training.

        Attributes
        ----------
        width, code
            Channels of the outer level, half of those of the inner one, and of the code.
        noise
            Standard deviation of what is added to the windows that are learned from.
        pooling
            A window scores the ``mean`` or the ``max`` of its steps, or the more unusual of
            ``both``.
        """

        width: Count = 32
        code: Count = 16
        noise: Annotated[float, msgspec.Meta(ge=0.0)] = 0.05
        pooling: Pool = "both"
        epochs: Count = 50
        batch: Count = 128
        steps_per_epoch: Count = 50
        learning_rate: Positive = 1e-3
        trim: Share = 0.01

    caps = Capabilities(
        name="cnn_ae",
        section="5.1.1",
        supervision="semi-supervised",
        kinds=("series",),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        cost="small",
        loop="reconstruction",
        sources=("WAVES",),
    )

    chunk = 1024

    def _build(self) -> ConvAutoencoderNet:
        shape, config = self._fitted(), self.config
        net = ConvAutoencoderNet(
            shape.features, shape.vocab, config.width, config.code, config.noise
        )
        return net.to(self.device)
