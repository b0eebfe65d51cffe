"""Plain autoencoder: a window that does not survive a narrow code is anomalous."""

from __future__ import annotations

from torch import nn

from detectors.capabilities import Capabilities
from detectors.dense import DenseDetector, DenseTraining
from detectors.loops.stage import Count
from detectors.nets.autoencoder import DenseAutoencoder, code_width


class Autoencoder(DenseDetector):
    """Error of copying a window through a code much narrower than the window.

    An encoder and a decoder minimise ``sum ||x - xhat||²``. The score is the mean over the real
    entries of ``(x - xhat)²``, by default in units of what each field has on held-out windows, so
    that a normal window scores about 1 and a noisy field does not drown the others.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``128 D`` multiply-adds a window.

    Notes
    -----
    A code too wide copies anomalies as well. Contaminated training data is memorised, given time:
    ``trim`` keeps the worst windows of each mini-batch from teaching.

    Adaptations: categories become columns with squared errors, and count as one field each; errors
    are weighed by field; windows are flattened after padding.

    References
    ----------
    Hinton and Salakhutdinov 2006, *Reducing the dimensionality of data with neural networks*.
    Survey: Pang et al. 2020, section 5.1.1, equations 4-6.
    """

    class Config(DenseTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every dense autoencoder.

        Attributes
        ----------
        hidden
            Widths of the encoder's hidden layers; the decoder has them in reverse.
        code
            Width of the code; an eighth of the columns if left out.
        """

        hidden: tuple[Count, ...] = (64, 32)
        code: Count | None = None

    caps = Capabilities(
        name="ae",
        section="5.1.1",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="tiny",
        loop="reconstruction",
        sources=("SUBSPACE", "WAVES"),
    )

    def _network(self, columns: int) -> nn.Module:
        code = self.config.code or code_width(columns)
        return DenseAutoencoder(columns, self.config.hidden, code)
