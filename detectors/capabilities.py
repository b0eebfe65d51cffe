"""What a detector can do, as data: read by the router, the command line, the docs and the tests."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["record", "series", "events", "catrec", "path", "bag", "graphwin"]
Supervision = Literal["unsupervised", "semi-supervised", "weakly supervised"]
Source = Literal[
    "SUBSPACE",
    "CLUSTERS",
    "WAVES",
    "BLOCKS",
    "GRAMMAR",
    "SESSIONS",
    "PATHS",
    "GRAPHS",
    "BAGS",
    "ONESIDED",
    "FEWLABELS",
]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Static facts about a detector; nothing here needs a network to be built.

    Attributes
    ----------
    name, section
        Catalogue id, and the section of the survey (Pang et al. 2020) that describes the method;
        a baseline names its paper instead.
    supervision
        In the survey's words (§2.2): semi-supervised means that training data is assumed normal.
    kinds
        Input kinds it takes: ``record`` is ``T = 1``; ``series`` numbers with ``T > 1``;
        ``events`` one category field with ``T >= 1``; ``catrec`` several, and a ``path`` where
        they name entities that meet in an event; ``graphwin`` is a window of such events, with
        numbers, as one graph; a ``bag`` is a session, labelled as a whole, whose steps are its
        instances.
    attributes
        Whether events of several categories (``catrec``) may have numbers beside them.
    min_fields
        Category fields it refuses to fit without: those that relate them need two.
    min_labels
        Labelled anomalies it refuses to fit without; 0 where labels are not needed.
    uses_labels
        Whether labels change what it learns.
    partial_fit
        What an incremental update touches.
    per_step, per_feature, gives_expected
        Which explanations ``score(..., explain="full")`` fills in.
    pads
        Whether windows longer than those of the fit are taken as well.
    cost
        Work per window (``tiny`` up to 1e5 multiply-adds, ``small`` 1e7, ``medium`` 1e9).
    loop
        The shared training loop it runs on, or ``statistics`` where nothing is trained.
    sources
        Synthetic sources of the generic checks on which it must rank anomalies higher.
    waived
        Names of generic checks that cannot hold for the method, each with the reason.
    """

    name: str
    section: str
    supervision: Supervision
    kinds: tuple[Kind, ...]
    attributes: bool = False
    min_fields: int = 0
    min_labels: int = 0
    uses_labels: bool = False
    partial_fit: Literal["full", "head-only", "statistics-only", "none"] = "none"
    per_step: bool = False
    per_feature: bool = False
    gives_expected: bool = False
    pads: bool = True
    cost: Literal["tiny", "small", "medium", "heavy", "iterative"]
    loop: Literal[
        "statistics",
        "reconstruction",
        "prediction",
        "adversarial",
        "one-class",
        "clustering",
        "deviation",
        "likelihood",
    ]
    sources: tuple[Source, ...]
    waived: dict[str, str] = {}
