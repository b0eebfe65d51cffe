"""What one-class support vector machines on codes share: features, machines, errors beside them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from detectors.batch import WindowBatch
from detectors.loops.batches import evaluate, split
from detectors.loops.fourier import FourierFeatures
from detectors.loops.moments import Moments
from detectors.loops.ocsvm import OneClassMachines
from detectors.loops.stage import Count, Positive, Run
from detectors.nets.modules import load_module, module_state
from detectors.view_codes import ViewCodes, ViewTraining

SOLVED = 8192
"""Windows, at equal distances, that the weights of the machines are found for."""


class OneClassCodesTraining(ViewTraining, frozen=True, kw_only=True):
    """Settings of every one-class support vector machine on codes.

    Attributes
    ----------
    nu
        Share of the windows of the fit that may lie outside.
    head
        ``fourier``, or ``linear`` in the codes.
    frequencies, width
        Random Fourier features, and the width of their kernel in median distances of codes.
    residual
        Whether the error of copying is added to the score, as a deviation from the usual.
    """

    nu: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.1
    head: Literal["fourier", "linear"] = "fourier"
    frequencies: Count = 512
    width: Positive = 1.0
    residual: bool = False


class OneClassCodes(ViewCodes):
    """How far the code of a window lies outside of what most normal codes have in common.

    Codes are between 0 and 1, and divided by their spread without being centred: what is linear
    separates them from the origin.
    """

    squash = nn.Sigmoid

    def _learn_head(self, data: WindowBatch, run: Run) -> None:
        codes = self._all_codes(data)
        self._scale = codes.std(dim=0, correction=0).clamp(min=1e-3)
        config = self.config
        self._fourier = FourierFeatures.fit(codes / self._scale, config.frequencies, config.width)
        self._machines = self._solved(codes)
        self._usual = self._usual_error(split(data)[1])

    def _solved(self, codes: Tensor) -> OneClassMachines:
        """Machines for the codes ``[N, M, K]``."""
        nu, some = self.config.nu, codes[:: -(-len(codes) // SOLVED)]
        features = self._features(some)
        machines = OneClassMachines(*features.shape[1:]).to(self.device).requires_grad_(False)
        machines.solve(features, nu)
        parts = torch.split(codes, 4 * self.config.batch)
        machines.settle(torch.cat([machines.outputs(self._features(p)) for p in parts]), nu)
        return machines

    def _features(self, codes: Tensor) -> Tensor:
        """``[B, M, K]`` to ``[B, M, R]``."""
        scaled = codes / self._scale
        return self._fourier(scaled) if self.config.head == "fourier" else scaled

    def _judge(self, rows: Tensor, real: Tensor) -> Tensor:
        outside: Tensor = self._machines(self._features(self._codes(rows, real)))
        if not self.config.residual:
            return outside
        usual = self._usual
        spread = usual.covariance.diagonal().sqrt().float()
        return outside + (self._errors(rows, real) - usual.mean.float()) / spread

    def _errors(self, rows: Tensor, real: Tensor) -> Tensor:
        """Mean squared error ``[B]`` of copying the real entries of all views."""
        rows, real = self._beside(rows, real)
        squares = (rows - self._net(rows)).square() * real
        mean: Tensor = squares.sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return mean

    def _usual_error(self, data: WindowBatch) -> Moments:
        errors = evaluate(lambda part: self._errors(*self._rows(part)), data, self.config.batch)
        return Moments.fit(errors.unsqueeze(1), self.config.trim)

    def _state(self) -> dict[str, Tensor]:
        return {
            **super()._state(),
            **module_state(self._machines, "machines."),
            **self._usual.state("usual."),
            "scale": self._scale,
            "frequencies": self._fourier.frequencies,
        }

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._scale = state["scale"]
        self._fourier = FourierFeatures(state["frequencies"])
        self._usual = Moments.from_state(state, "usual.")
        self._machines = OneClassMachines(*state["machines.weight"].shape).to(self.device)
        load_module(self._machines, state, "machines.")
