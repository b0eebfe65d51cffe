"""Likelihood of events by noise-contrastive estimation: telling them from events with one lie.

A field of an observed event is drawn at random, and its value replaced by draws from the frequency
of the values of that field. Telling the two apart by ``tau - log(k Q)``, with ``Q`` the frequency
of the value that stands in that field, observed or drawn, makes ``tau`` a log-likelihood without a
sum over all possible events.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from detectors.batch import NEW, PAD
from detectors.loops.training import Stage, train
from detectors.nets.embedding import NEW_SHARE


class Contrast(NamedTuple):
    """A mini-batch: events, their imitations, and what is known of the replaced values.

    Attributes
    ----------
    observed, noise
        Rows ``[B, C]`` and ``[B, k, C]`` of the table of values.
    log_q, log_q_noise
        ``[B]`` and ``[B, k]`` log-frequencies of the value in the drawn field.
    """

    observed: Tensor
    noise: Tensor
    log_q: Tensor
    log_q_noise: Tensor


@dataclass(frozen=True)
class Unigrams:
    """Frequencies of the values of each field, to draw noise from.

    Attributes
    ----------
    start
        ``[C]``: where the values of each field begin in the table of all.
    log_q
        ``[V]`` log-frequencies; minus infinity for values that never occur.
    cumulative
        ``[V]`` float64: number of the field plus the frequency of all its values up to this one.
    """

    start: Tensor
    log_q: Tensor
    cumulative: Tensor

    @classmethod
    def fit(cls, counts: Tensor, start: Tensor) -> Self:
        """Turn counts ``[V]`` of all fields into frequencies.

        New values get the share in which training shows them.
        """
        shares, sums = [], []
        bounds = [*start.tolist(), len(counts)]
        for field, (low, high) in enumerate(itertools.pairwise(bounds)):
            own = counts[low:high].double().clone()
            own[PAD] = 0.0
            share = (1 - NEW_SHARE) * own / own.sum().clamp(min=1)
            share[NEW] += NEW_SHARE
            shares.append(share)
            sums.append(field + share.cumsum(0) / share.sum())
        return cls(start, torch.cat(shares).log().float(), torch.cat(sums))

    def draw(self, observed: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Draw ``k`` values ``[B, k, C]`` of every field for each event ``[B, C]``."""
        size, fields = observed.shape
        draws = torch.rand((size, k, fields), generator=generator, dtype=torch.float64)
        places = draws.to(observed.device) + torch.arange(fields, device=observed.device)
        found = torch.searchsorted(self.cumulative, places, right=True)
        return found.clamp(max=len(self.cumulative) - 1)

    def imitate(self, observed: Tensor, k: int, generator: torch.Generator) -> Contrast:
        """Make ``k`` imitations of each event ``[B, C]``, all in one field drawn for the event."""
        size, fields = observed.shape
        device = observed.device
        field = torch.randint(fields, (size,), generator=generator).to(device)
        draws = torch.rand((size, k), generator=generator, dtype=torch.float64).to(device)
        last = len(self.cumulative) - 1
        # all fields lie behind each other on one line, on which a field takes up a length of 1
        found = torch.searchsorted(self.cumulative, field.unsqueeze(1) + draws, right=True)
        values = found.clamp(max=last)
        noise = observed.unsqueeze(1).repeat(1, k, 1)
        noise.scatter_(2, field[:, None, None].expand(-1, k, 1), values.unsqueeze(2))
        own = observed.gather(1, field.unsqueeze(1)).squeeze(1)
        return Contrast(observed, noise, self.log_q[own], self.log_q[values])


def show_new_rows(rows: Tensor, start: Tensor, generator: torch.Generator) -> Tensor:
    """Replace a small share of the rows ``[B, C]`` by the row of new values of their field."""
    hit = torch.rand(rows.shape, generator=generator).to(rows.device) < NEW_SHARE
    return torch.where(hit, start + NEW, rows)


def contrastive_loss(tau: Tensor, tau_noise: Tensor, contrast: Contrast) -> Tensor:
    """``-log P(observed | x) - sum_j log P(noise | x'_j)``, ``[B]``.

    ``P(observed | x) = exp(tau) / (exp(tau) + k Q)``: a logistic regression on ``tau - log(k Q)``.
    """
    log_k = math.log(tau_noise.shape[1])
    observed = tau - log_k - contrast.log_q
    noise = tau_noise - log_k - contrast.log_q_noise
    return softplus(-observed) + softplus(noise).sum(dim=1)


def contrast_events(
    stage: Stage,
    events: Tensor,
    held_out: Tensor,
    unigrams: Unigrams,
    tau: Callable[[Tensor], Tensor],
    negatives: int,
) -> None:
    """Minimise the contrastive loss.

    Parameters
    ----------
    events, held_out
        Rows ``[N, C]`` to learn from, and later ones that decide when to stop.
    unigrams
        What noise is drawn from.
    tau
        Rows ``[..., C]`` to ``[...]``, through ``stage.model``.
    negatives
        Imitations of each event.
    """
    settings = stage.settings

    def draw(generator: torch.Generator) -> Iterator[Contrast]:
        order = torch.randperm(len(events), generator=generator)
        order = order[: settings.batch * settings.steps_per_epoch]
        order = order.to(events.device)
        for first in range(0, len(order), settings.batch):
            chosen = order[first : first + settings.batch]
            shown = show_new_rows(events[chosen], unigrams.start, generator)
            yield unigrams.imitate(shown, negatives, generator)

    def loss(contrast: Contrast) -> Tensor:
        return contrastive_loss(tau(contrast.observed), tau(contrast.noise), contrast)

    # one and the same noise every time, so that epochs compare
    fixed = torch.Generator().manual_seed(stage.run.seed)
    judge = unigrams.imitate(held_out, negatives, fixed)

    def validate() -> float:
        with torch.no_grad():
            return float(loss(judge).mean())

    train(stage, draw, loss, validate=validate)
