"""Softmax likelihood of events, by noise-contrastive estimation."""

from __future__ import annotations

from detectors.capabilities import Capabilities
from detectors.event_likelihood import EmbeddedEvents, LikelihoodTraining


class EventNce(EmbeddedEvents):
    """``-tau(x)`` with ``tau(x) = sum over pairs i < j of w_ij z_i . z_j + c`` of an event.

    Each value has an embedding ``z``, each pair of fields a weight of either sign. The model
    ``p(x) ~ exp(tau(x))`` is fitted by telling events from imitations, in which one field, drawn
    at random, is filled anew by the frequency of its values: a logistic regression on
    ``tau(x) - log(k Q(x))`` with ``k`` imitations an event. ``Q`` is the frequency of the value in
    the drawn field, for the event and its imitations alike.

    Shapes
    ------
    Events ``[B, T, C]`` of at least two fields, of which each step counts by itself and a window
    scores their mean; about ``C² d`` multiply-adds a step for embeddings of width ``d``.

    Notes
    -----
    ``tau`` is large for likely events; the score has the opposite sign. The constant ``c`` takes up
    the normaliser of the softmax and what the approximation of ``Q`` leaves out.

    Adaptations: one percent of the values is shown as new in training and drawn as such in noise,
    and new values pay a surcharge; training stops by the loss of held-out events against fixed
    noise, which takes about ten epochs of 100,000 events and a hundred of 2,000; imitations that
    happen to be events that do occur are not drawn anew, since ``k Q`` allows for them. Sequences
    of a single category are not taken: their n-grams would have to be fields.

    References
    ----------
    Gutmann and Hyvärinen 2010, *Noise-contrastive estimation: a new estimation principle for
    unnormalized statistical models*; Chen et al. 2016, *Entity embedding-based anomaly detection
    for heterogeneous categorical events* (the noise). Survey: Pang et al. 2020, section 6.3,
    equations 41-44.
    """

    class Config(LikelihoodTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings: those of every event likelihood."""

    caps = Capabilities(
        name="nce",
        section="6.3",
        supervision="unsupervised",
        kinds=("catrec", "path"),
        min_fields=2,
        partial_fit="full",
        per_step=True,
        per_feature=True,
        cost="tiny",
        loop="likelihood",
        sources=("PATHS",),
    )
    positive = False
