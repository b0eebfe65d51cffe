"""E3Outlier: unlabelled windows, and how undecided a classifier of transformations is."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from detectors.capabilities import Capabilities
from detectors.loops.stage import Count, Share
from detectors.transformed import TransformationClassifier, TransformTraining


class E3Outlier(TransformationClassifier):
    """Mean entropy of a classifier's answers to which transformation a window underwent.

    Each window ``x`` is shown in ``n`` transformed versions ``T_j(x)``, and a network learns to say
    ``j`` by cross-entropy; it answers with probabilities ``y``. Rare windows hardly take part: most
    of the gradient comes from what most windows have in common. A window scores, by ``form``:

    - ``entropy``: the mean over ``j`` of ``-sum_k y_k log y_k``, between 0 and ``log n``;
    - ``true``: one minus the mean probability ``y_j`` of the true transformation;
    - ``largest``: one minus the mean of the largest probability.

    Shapes
    ------
    Windows ``[B, T, F + C]`` with ``T`` up to that of the fit: ``n = 4 orders`` versions, half as
    many of a single column, each about ``6 T hidden²`` multiply-adds a block of convolutions.
    Records: ``n = maps`` versions of ``D`` columns, ``D² + 2 hidden (D + hidden)`` each.

    Notes
    -----
    Trained for long, the network learns the anomalies too: training stops soon after it is sure of
    the held-out windows, and ``trim`` is large, so that anomalies neither teach nor keep it going.

    An extreme window can leave the network as sure of a wrong answer as of a right one, which
    ``entropy`` and ``largest`` take for normal and ``true`` does not.

    From the paper: training on contaminated data, the three scores. Adaptations: windows are
    reversed, cut and put together in another order, and exchange halves of their columns, bare
    events their ids; records go through random affine maps; these are eight or sixteen versions,
    not about a hundred, and none is dropped that cannot be told; categories become columns.
    Explanations integrate the gradient of the score on the way to the window from the nearest of
    ``EXAMPLES`` windows of the fit.

    References
    ----------
    Wang et al. 2019, *Effective end-to-end unsupervised outlier detection via inlier priority of
    discriminative network*. Survey: Pang et al. 2020, section 5.1.4, equation 21.
    """

    class Config(TransformTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every classifier of transformations.

        Attributes
        ----------
        form
            Of the score: ``entropy``, ``true`` or ``largest``.
        """

        form: Literal["entropy", "true", "largest"] = "entropy"
        epochs: Count = 10
        trim: Share = 0.1

    caps = Capabilities(
        name="e3outlier",
        section="5.1.4",
        supervision="unsupervised",
        kinds=("record", "series", "events"),
        partial_fit="full",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="medium",
        loop="prediction",
        sources=("WAVES",),
    )

    def _score_columns(self, columns: Tensor, mask: Tensor) -> Tensor:
        return undecided(self._log_answers(columns, mask), self.config.form)


def undecided(log_answers: Tensor, form: Literal["entropy", "true", "largest"]) -> Tensor:
    """Score ``[B]`` of log-probabilities ``[B, n, n]``."""
    answers = log_answers.exp()
    if form == "entropy":
        return -(answers * log_answers).sum(dim=-1).mean(dim=-1)
    if form == "true":
        return 1 - answers.diagonal(dim1=1, dim2=2).mean(dim=-1)
    return 1 - answers.amax(dim=-1).mean(dim=-1)
