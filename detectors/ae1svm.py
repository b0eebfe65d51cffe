"""AE-1SVM: an autoencoder and a one-class support vector machine on its code, trained as one."""

from __future__ import annotations

from functools import partial

import msgspec
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.loops.batches import held_out_loss, split
from detectors.loops.reconstruction import minimise
from detectors.loops.stage import Count, Positive, Run, Stage, Training, gentle
from detectors.one_class_codes import OneClassCodes, OneClassCodesTraining


class JointOcSvm(OneClassCodes):
    """Score ``rho - w . h(z)`` of codes that learned to be easy to separate from the origin.

    An autoencoder teaches codes ``z`` in 0 .. 1 first. Random Fourier features ``h`` of the codes,
    with a kernel as wide as codes usually are apart, are then drawn once and for all, and encoder,
    decoder and machine are trained together on ``reconstruction |x - xhat|² + 0.5 |w|² - rho +
    max(0, rho - w . h(z)) / nu``. For the codes that result, the machine is solved exactly, with
    ``rho`` the ``nu`` quantile of ``w . h(z)``. The score is in units of the spread of
    ``w . h(z)``, above 0 outside. ``partial_fit`` goes on training all but the features.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``64 D + 2,000`` multiply-adds a window, and ``32 R`` for
    ``R`` frequencies.

    Notes
    -----
    The machine would rather have all codes alike; ``reconstruction`` has to weigh enough to keep
    them apart. The score does not see what the encoder discards: with ``residual``, the error of
    copying is added, in standard deviations from its mean on held-out windows. What is far from
    all codes scores about ``rho``, however far.

    Explanations integrate the gradient of the score, from end to end, on the way to the window from
    the nearest of ``EXAMPLES`` windows of the fit.

    Adaptations: inputs have unit spread, and the weight of reconstruction suits that; the inputs of
    the autoencoder are corrupted; codes are divided by their spread once it is pre-trained; the
    width of the kernel follows from the data; the machine begins and ends with weights by the
    method of Frank and Wolfe on up to ``SOLVED`` windows; categories become columns, windows are
    flattened after padding.

    References
    ----------
    Nguyen and Vien 2018, *Scalable and interpretable one-class SVMs with deep learning and random
    Fourier features*. Survey: Pang et al. 2020, section 5.2.2, equation 27.
    """

    class Config(OneClassCodesTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every one-class support vector machine on codes.

        Attributes
        ----------
        reconstruction
            Weight of the squared error of copying.
        joint_epochs
            Epochs of training as one, after ``epochs`` as an autoencoder.
        """

        reconstruction: Positive = 10.0
        joint_epochs: Count = 30

    caps = Capabilities(
        name="ae1svm",
        section="5.2.2",
        supervision="unsupervised",
        kinds=("record", "series"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="tiny",
        loop="one-class",
        sources=("CLUSTERS",),
    )

    def _views(self, rows: Tensor, real: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(rows, real)]

    def _learn_head(self, data: WindowBatch, run: Run) -> None:
        super()._learn_head(data, run)
        settings = msgspec.structs.replace(self.config, epochs=self.config.joint_epochs)
        self._join(run, settings, data)
        self._machines = self._solved(self._all_codes(data))
        self._usual = self._usual_error(split(data)[1])

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        self._join(Run.of_update(self.seed, budget, self.report), gentle(self.config), data)
        self._machines.blend(self._solved(self._all_codes(data)))
        self._usual = self._usual.updated(self._usual_error(split(data)[1]))

    def _join(self, run: Run, settings: Training, data: WindowBatch) -> None:
        """Train autoencoder and machine together."""
        early, late = split(data)
        stage = Stage(nn.ModuleList([self._net, self._machines]), settings, run)
        validate = partial(held_out_loss, self._loss, late, settings)
        minimise(stage, early, self._loss, validate, new_ids=False)

    def _loss(self, batch: WindowBatch) -> Tensor:
        rows, real = self._rows(batch)
        errors = ((self._net(rows) - rows) * real).square().sum(dim=1)
        outside = self._machines.objective(self._features(self._codes(rows, real)), self.config.nu)
        loss: Tensor = self.config.reconstruction * errors + outside
        return loss
