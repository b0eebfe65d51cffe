"""APE: an event is anomalous whose values, taken pair by pair, do not go together."""

from __future__ import annotations

from detectors.capabilities import Capabilities
from detectors.event_likelihood import EmbeddedEvents, LikelihoodTraining
from detectors.loops.stage import Count, Weight


class PairwiseEmbedding(EmbeddedEvents):
    """``-tau(x)`` with ``tau(x) = sum over pairs i < j of w_ij z_i . z_j + c`` and ``w_ij >= 0``.

    All values live in one space of embeddings ``z``, in which those that occur together come close;
    the weight of a pair of fields says how much that matters. Weights start at 1 and stay above 0,
    so that closeness is never held against an event. The likelihood ``p(x) ~ exp(tau(x))`` is
    learned by telling events from imitations, in which one field is filled anew by the frequency of
    its values.

    Shapes
    ------
    Events ``[B, T, C]`` of at least two fields, of which each step counts by itself and a window
    scores their mean; about ``C² d`` multiply-adds a step for embeddings of width ``d``.

    Notes
    -----
    A long embedding and a large weight say the same: weight decay on the embeddings settles it.
    Numbers and times are no categories: bin them beforehand where they are to count.

    Adaptations: weights are the softplus of what is learned; one percent of the values is shown as
    new in training and drawn as such in noise, and new values pay a surcharge; training stops by
    the loss of held-out events against fixed noise; frequencies forget the past in updates.

    References
    ----------
    Chen et al. 2016, *Entity embedding-based anomaly detection for heterogeneous categorical
    events*. Survey: Pang et al. 2020, section 6.3, equations 41-44.
    """

    class Config(LikelihoodTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings: those of every event likelihood."""

        width: Count = 16
        negatives: Count = 3
        weight_decay: Weight = 1e-4

    caps = Capabilities(
        name="ape",
        section="6.3",
        supervision="unsupervised",
        kinds=("catrec",),
        min_fields=2,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="tiny",
        loop="likelihood",
        sources=("PATHS",),
    )
    positive = True
