"""Denoising autoencoder: learns to undo noise, and so what entries say about each other."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor

from detectors.ae import Autoencoder
from detectors.dense import squared_error
from detectors.device import beside
from detectors.loops.stage import Share


class DenoisingAutoencoder(Autoencoder):
    """Error of copying a window, by a network that was trained to clean corrupted ones.

    Training shows ``x`` with normal noise added and a share of its entries set to the typical value
    0, and minimises ``sum ||x - xhat||²`` against the clean ``x``. Copying an entry from itself no
    longer pays; the network has to tell it from the others. Scoring corrupts nothing; the score is
    that of the plain autoencoder, which this is without corruption.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``128 D`` multiply-adds a window.

    Notes
    -----
    Noise is added after scaling, in robust standard deviations. Adaptations: categories are
    columns, and are corrupted as such; inputs are those of the plain autoencoder.

    References
    ----------
    Vincent et al. 2010, *Stacked denoising autoencoders: learning useful representations in a deep
    network with a local denoising criterion*. Survey: Pang et al. 2020, section 5.1.1.
    """

    class Config(Autoencoder.Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of the plain autoencoder.

        Attributes
        ----------
        noise
            Standard deviation of the noise.
        blanked
            Share of the entries that are set to 0.
        """

        noise: Annotated[float, msgspec.Meta(ge=0.0)] = 0.2
        blanked: Share = 0.1

    caps = msgspec.structs.replace(Autoencoder.caps, name="denoise_ae")

    def _loss(self, rows: Tensor, real: Tensor) -> Tensor:
        return squared_error(self._net(self._corrupted(rows) * real), rows, real)

    def _corrupted(self, rows: Tensor) -> Tensor:
        config = self.config
        return corrupted(rows, config.noise, config.blanked, self._corruption)


def corrupted(rows: Tensor, noise: float, blanked: float, generator: torch.Generator) -> Tensor:
    """Corrupt rows ``[B, D]``; drawn on the CPU, so that every device draws the same.

    Parameters
    ----------
    noise, blanked
        Standard deviation of the noise, and share of the entries that are set to 0.
    """
    drawn = beside(torch.randn(rows.shape, generator=generator), rows)
    blank = beside(torch.rand(rows.shape, generator=generator), rows) < blanked
    noisy: Tensor = rows + noise * drawn
    return noisy.masked_fill(blank, 0.0)
