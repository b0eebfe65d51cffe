"""AnoGAN: a window that no noise can be turned into is anomalous."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.adversarial import Found, absolute, boxed
from detectors.batch import WindowBatch
from detectors.capabilities import Capabilities
from detectors.detector import Budget
from detectors.loops.stage import Count, Positive, Share
from detectors.maker import MakerDetector, MakerNet, MakerTraining


class AnoGan(MakerDetector):
    """``(1 - alpha) ||x - G(z*)||_1 + alpha ||h(x) - h(G(z*))||_1`` for the best ``z*`` found.

    A GAN learns to make normal windows ``G(z)`` from noise. To score a window, ``search`` steps of
    gradient descent look for the noise whose window comes closest to it, in its values and in the
    judge's features ``h``; what is left of the distance is the score. The best ``z`` on the way
    counts, from any of ``restarts`` starts, and the starts are the same for every window.

    Shapes
    ------
    Records ``[B, 1, F + C]`` or windows ``[B, T, F + C]`` with ``T`` up to that of the fit,
    flattened to ``D`` columns; about ``900 D + 100,000`` multiply-adds a window for each step of
    each search: by far the most expensive of all detectors. Take it for a second opinion.

    Notes
    -----
    Scores are searched for in double precision: a search multiplies rounding errors, and a score
    may not depend on what else is in its batch. Nothing but ``z`` changes in a search.
    ``G(z*)`` is the nearest plausible window, and explanations are the distances to it.

    Adaptations: dense layers in place of convolutions, windows are flattened, columns are mapped to
    -1 .. 1 by quantiles, a short search by Adam with the best point kept, fixed starts, a running
    average of the weights, weights chosen by how far held-out windows and synthetic ones around
    them are from made ones.

    References
    ----------
    Schlegl et al. 2017, *Unsupervised anomaly detection with generative adversarial networks to
    guide marker discovery*. Survey: Pang et al. 2020, section 5.1.2, equations 7-10.
    """

    class Config(MakerTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Settings, besides those of every detector with a maker.

        Attributes
        ----------
        alpha
            Weight of the judge's features.
        search, restarts
            Steps of each search, and searches for each window.
        search_rate
            Step size of the search.
        """

        alpha: Share = 0.1
        search: Count = 50
        restarts: Count = 2
        search_rate: Positive = 0.05

    caps = Capabilities(
        name="anogan",
        section="5.1.2",
        supervision="semi-supervised",
        kinds=("record", "series"),
        per_step=True,
        per_feature=True,
        gives_expected=True,
        pads=False,
        cost="iterative",
        loop="adversarial",
        sources=("SUBSPACE",),
    )
    chunk = 512

    def _network(self, columns: int) -> nn.Module:
        return MakerNet(columns, self.config.code)

    def _fit(self, data: WindowBatch, labels: Tensor | None, budget: Budget) -> None:
        super()._fit(data, labels, budget)
        self._net.double()
        starts = torch.randn(self.config.restarts, self.config.code, dtype=torch.float64)
        self._starts = starts.to(self.device)

    def _examine(self, rows: Tensor, real: Tensor, *, explain: bool) -> Found:
        with torch.inference_mode(False), torch.enable_grad():
            score, copies = self._search(rows.double(), real.double())
        return Found(score.float(), (rows - copies).abs(), copies.float())

    def _search(self, rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Least distance ``[B]`` that a search finds, and the row ``[B, D]`` at it."""
        config, net, tries = self.config, self._net, len(self._starts)
        z = self._starts.repeat_interleave(len(rows), dim=0).requires_grad_()
        rows, real = rows.repeat(tries, 1), real.repeat(tries, 1)
        features = net.critic.features(boxed(rows)).detach()
        descent = torch.optim.Adam([z], lr=config.search_rate)
        best = torch.full((len(z),), torch.inf, dtype=torch.float64, device=z.device)
        found = torch.zeros_like(rows)
        for _ in range(config.search):
            made = net.generator(z) * real
            far = (features - net.critic.features(made)).abs().sum(dim=1)
            loss = (1 - config.alpha) * absolute(rows - made, real) + config.alpha * far
            better = loss.detach() < best
            best = torch.where(better, loss.detach(), best)
            found = torch.where(better.unsqueeze(1), made.detach(), found)
            # a sum, so that windows do not share a gradient
            z.grad = torch.autograd.grad(loss.sum(), z)[0]
            descent.step()
        best, which = best.view(tries, -1).min(dim=0)
        rows_found = found.view(tries, len(best), -1)
        return best, rows_found[which, torch.arange(len(best), device=which.device)]

    def _state(self) -> dict[str, Tensor]:
        return {**super()._state(), "starts": self._starts}

    def _restore(self, state: dict[str, Tensor]) -> None:
        super()._restore(state)
        self._net.double()
        self._starts = state["starts"]
