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
from detectors.device import beside
from detectors.loops.batches import in_random_order
from detectors.loops.stage import Stage
from detectors.loops.training import train
from detectors.nets.embedding import NEW_SHARE


class Events(NamedTuple):
    """``N`` events.

    Attributes
    ----------
    rows
        ``[N, C]`` rows of the table of values.
    numbers
        ``[N, F]`` attributes beside them; there may be none.
    """

    rows: Tensor
    numbers: Tensor

    def some(self, chosen: Tensor) -> Events:
        """Choose events by index."""
        return Events(self.rows[chosen], self.numbers[chosen])


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
        places = beside(draws, observed) + torch.arange(fields, device=observed.device)
        found = torch.searchsorted(self.cumulative, places, right=True)
        return found.clamp(max=len(self.cumulative) - 1)

    def imitate(self, observed: Tensor, k: int, generator: torch.Generator) -> Contrast:
        """Make ``k`` imitations of each event ``[B, C]``, all in one field drawn for the event."""
        size, fields = observed.shape
        field = beside(torch.randint(fields, (size,), generator=generator), observed)
        draws = torch.rand((size, k), generator=generator, dtype=torch.float64)
        last = len(self.cumulative) - 1
        # all fields lie behind each other on one line, on which a field takes up a length of 1
        found = torch.searchsorted(
            self.cumulative, field.unsqueeze(1) + beside(draws, observed), right=True
        )
        values = found.clamp(max=last)
        noise = observed.unsqueeze(1).repeat(1, k, 1)
        noise.scatter_(2, field[:, None, None].expand(-1, k, 1), values.unsqueeze(2))
        own = observed.gather(1, field.unsqueeze(1)).squeeze(1)
        return Contrast(observed, noise, self.log_q[own], self.log_q[values])


def fading(counts: Tensor, fields: int, horizon: float) -> Tensor:
    """``[]``: what counts ``[V]`` of the values of past events are to weigh from now on.

    Parameters
    ----------
    fields
        Values of an event.
    horizon
        Events that the past weighs at most.
    """
    return (horizon / (counts.sum() / fields).clamp(min=1)).clamp(max=1.0)


def show_new_rows(rows: Tensor, start: Tensor, generator: torch.Generator) -> Tensor:
    """Replace a small share of the rows ``[B, C]`` by the row of new values of their field."""
    hit = beside(torch.rand(rows.shape, generator=generator), rows) < NEW_SHARE
    return torch.where(hit, start + NEW, rows)


class Numbered(NamedTuple):
    """A contrast; the numbers of its events ``[B, F]`` and of their imitations ``[B, k, F]``."""

    contrast: Contrast
    observed: Tensor
    noise: Tensor


def exchange_numbers(
    contrast: Contrast, numbers: Tensor, unigrams: Unigrams, generator: torch.Generator
) -> Numbered:
    """Turn some imitations into the event itself with the numbers of other events.

    The numbers are then drawn as often as each field. They have no frequency that could be counted:
    that of the values of an event stands in for it, on both sides.

    Parameters
    ----------
    numbers
        ``[B, F]``; without any, nothing is drawn.
    """
    size, k, fields = contrast.noise.shape
    repeated = numbers.unsqueeze(1).expand(-1, k, -1)
    if numbers.shape[1] == 0:
        return Numbered(contrast, numbers, repeated)
    hit = beside(torch.rand(size, generator=generator) < 1 / (fields + 1), numbers)
    others = numbers[beside(torch.randint(size, (size, k), generator=generator), numbers)]
    same = contrast.observed.unsqueeze(1)
    mean = unigrams.log_q[contrast.observed].mean(dim=1)
    exchanged = Contrast(
        contrast.observed,
        torch.where(hit[:, None, None], same, contrast.noise),
        torch.where(hit, mean, contrast.log_q),
        torch.where(hit.unsqueeze(1), mean.unsqueeze(1), contrast.log_q_noise),
    )
    return Numbered(exchanged, numbers, torch.where(hit[:, None, None], others, repeated))


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
    events: Events,
    held_out: Events,
    unigrams: Unigrams,
    tau: Callable[[Tensor, Tensor], Tensor],
    negatives: int,
    besides: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Minimise the contrastive loss.

    Parameters
    ----------
    events, held_out
        Events to learn from, and later ones that decide when to stop.
    unigrams
        What noise is drawn from.
    tau
        Rows ``[..., C]`` and numbers ``[..., F]`` to ``[...]``, through ``stage.model``.
    negatives
        Imitations of each event.
    besides
        Rows ``[B, C]`` to what else an event costs, ``[B]``.
    """
    settings = stage.settings

    def contrasted(shown: Events, generator: torch.Generator) -> Numbered:
        contrast = unigrams.imitate(shown.rows, negatives, generator)
        return exchange_numbers(contrast, shown.numbers, unigrams, generator)

    def draw(generator: torch.Generator) -> Iterator[Numbered]:
        device = events.rows.device
        for index in in_random_order(len(events.rows), settings, generator, device):
            chosen = events.some(index)
            shown = show_new_rows(chosen.rows, unigrams.start, generator)
            yield contrasted(chosen._replace(rows=shown), generator)

    def loss(batch: Numbered) -> Tensor:
        contrast = batch.contrast
        observed, noise = tau(contrast.observed, batch.observed), tau(contrast.noise, batch.noise)
        total = contrastive_loss(observed, noise, contrast)
        return total if besides is None else total + besides(contrast.observed)

    # one and the same noise every time, so that epochs compare
    fixed = torch.Generator().manual_seed(stage.run.seed)
    judge = contrasted(held_out, fixed)

    def validate() -> float:
        with torch.no_grad():
            return float(loss(judge).mean())

    train(stage, draw, loss, validate=validate)
