"""Autoencoder codes and a one-class support vector machine, trained one after the other."""

from __future__ import annotations

from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.loops.batches import split
from detectors.loops.stage import Count
from detectors.one_class_codes import OneClassCodes, OneClassCodesTraining


class AutoencoderOcSvm(OneClassCodes):
    """Score ``rho - w . h(z)``: a window is anomalous that a one-class machine leaves outside.

    Denoising autoencoders teach one code ``z`` in 0 .. 1 per view of a window and then stay as they
    are. On each view's codes, a one-class support vector machine minimises
    ``0.5 |w|² - rho + sum_i max(0, rho - w . h(z_i)) / (nu N)``, and ``rho`` is then the ``nu``
    quantile of ``w . h(z)``. The score is in units of the spread of ``w . h(z)``, above 0 outside,
    and the mean over several views. The features ``h`` are random Fourier features, or with the
    head ``linear`` the codes, divided by their spread but not centred. ``partial_fit`` moves the
    machines towards those of the new windows and leaves the autoencoders as they are.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened; about ``256 D + 16,000`` multiply-adds a view of ``D`` columns, and ``32 R`` for
    ``R`` frequencies.

    Notes
    -----
    The linear head sees nothing but codes nearer to the origin than others, and which these are is
    up to the encoder: it is there for comparison. Neither head sees what the encoder discards: with
    ``residual``, the error of copying is added, in standard deviations from its mean on held-out
    windows. What is far from all codes scores about ``rho``, however far.

    Explanations integrate the gradient of the score on the way to the window from the nearest of
    ``EXAMPLES`` windows of the fit.

    Adaptations: a denoising autoencoder, trained all at once, in place of a stack of Boltzmann
    machines; views are a window and its differences, or numbers, categories and both, in place of
    appearance and motion, and weigh alike; Fourier features are the default head; the machine is
    solved by the method of Frank and Wolfe on up to ``SOLVED`` windows.

    References
    ----------
    Erfani et al. 2016, *High-dimensional and large-scale anomaly detection using a linear one-class
    SVM with deep learning*; Xu et al. 2015, *Learning deep representations of appearance and motion
    for anomalous event detection*. Survey: Pang et al. 2020, section 4.
    """

    class Config(OneClassCodesTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, those of every one-class support vector machine on codes."""

        hidden: tuple[Count, ...] = (256, 64)

    caps = Capabilities(
        name="ae_ocsvm",
        section="4",
        supervision="semi-supervised",
        kinds=("record", "series"),
        partial_fit="head-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="small",
        loop="reconstruction",
        sources=("CLUSTERS",),
    )

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        codes = self._all_codes(data)
        self._machines.blend(self._solved(codes))
        self._usual = self._usual.updated(self._usual_error(split(data)[1]))
        losses = self._machines.objective(
            self._features(codes[: self.config.batch]), self.config.nu
        )
        self.report.losses = [float(losses.mean())]
        self.report.stopped = "epochs"
