"""A running average of weights: steadier than the weights themselves where training circles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of the parameters of a model; buffers are taken as they are.

    While the average is young, it forgets faster: after ``n`` steps its decay is at most
    ``(1 + n) / (10 + n)``, lest the first weights count for longer than training lasts.

    Parameters
    ----------
    model
        Whose parameters to follow.
    decay
        Share of the old average that each step keeps; 0 for no average at all.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.parameters = dict(model.named_parameters())
        self.means: dict[str, Tensor] = {}
        self.ages: dict[str, int] = {}
        self._begin(self.parameters)

    def _begin(self, names: Iterable[str]) -> None:
        for name in names:
            if self.decay:
                self.means[name], self.ages[name] = self.parameters[name].detach().clone(), 0

    def follow(self) -> None:
        """Take in the parameters after a step."""
        for name, mean in self.means.items():
            self.ages[name] = age = self.ages[name] + 1
            share = 1 - min(self.decay, (1 + age) / (10 + age))
            mean.lerp_(self.parameters[name].detach(), share)

    def current(self) -> dict[str, Tensor]:
        """Weights of the model as they are now, copied."""
        return {name: t.detach().clone() for name, t in self.model.state_dict().items()}

    def weights(self) -> dict[str, Tensor]:
        """Weights of the model with averages in place of parameters, copied."""
        return {**self.current(), **{name: mean.clone() for name, mean in self.means.items()}}

    def restart(self, weights: dict[str, Tensor]) -> None:
        """Set the model to ``weights`` and average from there."""
        self.model.load_state_dict(weights)
        self._begin(self.parameters)

    def reset(self, weights: dict[str, Tensor]) -> None:
        """Set some parameters and average these from there; the others go on as they were."""
        self._put(weights)
        self._begin(weights)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the model have the averages for a while."""
        held = {name: self.parameters[name].detach().clone() for name in self.means}
        self._put(self.means)
        try:
            yield
        finally:
            self._put(held)

    def _put(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.parameters[name].copy_(value)
