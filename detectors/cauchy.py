"""Cauchy combination: several detectors of different families speak with one p-value."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import torch
from torch import Tensor

from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.catalogue import CATALOGUE, detector_class
from detectors.detector import Budget, Detector, Shape
from detectors.loops.batches import split
from detectors.loops.stage import Training
from detectors.scores import Explain, Scores
from detectors.tail import Tail
from schemas.errors import DataError
from schemas.nearest import nearest

COMPANY = {
    "record": ("knn", "pca", "iforest"),
    "series": ("knn", "pca", "kmeans_ad"),
    "events": ("count_vector", "ffp"),
}
"""Members where none are named, by what windows are."""

EXACT = 25.0
"""Nats up to which the tangent is computed; beyond, it is ``1 / (p pi)`` and lost in rounding."""

HELD = 2048
"""Held-out windows kept, the latest ones: those of one update are too few to tell a tail by."""

FAR = 1e7
"""Statistic beyond which ``p`` is ``1 / (statistic pi)``."""

LARGEST_P = 0.99
"""P-values are cut here: the tangent of one next to 1 would outweigh any evidence of the others."""


class CauchyCombination(Detector):
    """Minus the logarithm of the combined p-value of several detectors.

    Each member learns from the earlier windows. The scores that it gives to the latest tenth, which
    it has not seen, turn its scores into p-values ``p_i``, which the mean of
    ``tan((1/2 - p_i) pi)`` combines: whatever the correlation of the members, a small combined
    p-value is about right, and one member that is sure is enough.

    Shapes
    ------
    Windows ``[B, T, F + C]``, ``T`` up to that of the fit; costs what the members cost together.

    Notes
    -----
    Adaptations: p-values are cut at ``LARGEST_P``; those in the tail of the held-out scores come
    from a generalised Pareto distribution, so that strong anomalies stay in order.
    Explanations are those of the members, each to the share of its own surprise ``-log p_i``.
    ``partial_fit`` updates the members that can be, and takes p-values anew from the latest
    ``HELD`` held-out windows, which are kept.

    References
    ----------
    Liu and Xie 2020, *Cauchy combination test: a powerful test with analytic p-value calculation
    under arbitrary dependency structures*. Beyond the survey (Pang et al. 2020), whose section 8
    asks for the combination of different views.
    """

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings.

        Attributes
        ----------
        members
            Catalogue ids, with their default settings; those of ``COMPANY`` if left out.
        """

        members: tuple[str, ...] = ()

    caps = Capabilities(
        name="cauchy",
        section="beyond: Liu and Xie 2020",
        supervision="semi-supervised",
        kinds=("record", "series", "events"),
        partial_fit="statistics-only",
        per_step=True,
        per_feature=True,
        pads=False,
        cost="small",
        loop="statistics",
        sources=("SUBSPACE", "CLUSTERS", "WAVES", "GRAMMAR"),
    )

    def _enlist(self, shape: Shape) -> dict[str, Detector]:
        """Make the members, not fitted."""
        names = self.config.members or COMPANY[_kind(shape)]
        for name in names:
            if name not in CATALOGUE or name == self.caps.name:
                msg = f"cauchy.members: no detector {name!r}{nearest(name, CATALOGUE)}"
                raise DataError(msg)
        return {
            name: detector_class(name)(seed=self.seed, device=self.device)
            for name in dict.fromkeys(names)
        }

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        early, late = split(data)
        self._members = self._enlist(self._fitted())
        share = self._share_of(budget)
        for member in self._members.values():
            member.fit(early, budget=share)
        self._calibrate(late.padded(self._fitted().steps))

    def _partial_fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        early, late = split(data)
        share = self._share_of(budget)
        for member in self._members.values():
            if member.caps.partial_fit != "none":
                member.partial_fit(early, budget=share)
        late = late.padded(self._fitted().steps)
        self._calibrate(WindowBatch.concatenate([self._held, late]))

    def _share_of(self, budget: Budget) -> Budget:
        """Part of a budget that a member gets: steps are for those that are trained."""
        trained = sum(isinstance(member.config, Training) for member in self._members.values())
        seconds = None if budget.seconds is None else budget.seconds / len(self._members)
        steps = None if budget.steps is None else budget.steps // max(1, trained)
        return replace(budget, seconds=seconds, steps=steps)

    def _calibrate(self, held_out: WindowBatch) -> None:
        self._held = held_out[-HELD:]
        self._tails = {
            name: Tail.fit(member.score(self._held).score) for name, member in self._members.items()
        }

    def _score(self, data: WindowBatch, explain: Explain) -> Scores:
        found = {
            name: member.score(data, explain=explain) for name, member in self._members.items()
        }
        surprise = torch.stack(
            [self._tails[name].surprise(scores.score) for name, scores in found.items()]
        )
        score = combine(surprise).float()
        if explain == "none":
            return Scores(score)
        feature = data.num.new_zeros(*data.mask.shape, data.features + data.fields)
        for weight, scores in zip(surprise.float(), found.values(), strict=True):
            if scores.feature is not None:
                total = scores.feature.sum(dim=(1, 2), keepdim=True)
                feature += weight[:, None, None] * scores.feature / total.clamp(min=1e-12)
        return Scores(score, feature.sum(dim=2), feature)

    def _state(self) -> dict[str, Tensor]:
        state = self._held.state("held.")
        for name, member in self._members.items():
            state |= {f"{name}.{part}": tensor for part, tensor in member.tensors().items()}
            state |= self._tails[name].state(f"{name}.tail.")
        return state

    def _restore(self, state: dict[str, Tensor]) -> None:
        shape = self._fitted()
        self._held = WindowBatch.from_state(state, "held.", shape.vocab)
        self._members = self._enlist(shape)
        self._tails = {name: Tail.from_state(state, f"{name}.tail.") for name in self._members}
        for name, member in self._members.items():
            start = f"{name}."
            own = {
                part.removeprefix(start): t for part, t in state.items() if part.startswith(start)
            }
            member.take_over(shape, {x: t for x, t in own.items() if not x.startswith("tail.")})


def combine(surprise: Tensor) -> Tensor:
    """Combine ``-log p``, ``[members, B]`` float64, into one of each window, ``[B]``."""
    surprise = surprise.clamp(min=-math.log(LARGEST_P))
    p = torch.exp(-surprise.clamp(max=EXACT))
    statistic = torch.tan((0.5 - p) * math.pi).mean(dim=0)
    near = -torch.log(0.5 - torch.atan(statistic.clamp(max=FAR)) / math.pi)
    far = torch.logsumexp(surprise, dim=0) - math.log(len(surprise))
    return torch.where(statistic > FAR, far, near)


def _kind(shape: Shape) -> str:
    if not shape.features:
        return "events"
    return "record" if shape.steps == 1 else "series"
