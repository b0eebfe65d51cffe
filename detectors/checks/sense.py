"""Checks that scores mean something: the right order, blame where it belongs, on every device."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import torch
from torch import Tensor

from detectors.batch import NEW, WindowBatch
from detectors.capabilities import Source
from detectors.checks.sources import Sample, in_steps, sample
from detectors.checks.subject import QUICK, Subject, require, small
from detectors.detector import DESCRIPTION, WEIGHTS, Description, Detector

CLEAR = 0.6
"""Share of pairs (anomaly, normal) in the right order; 0.5 is guessing. On 500 of each, guessing
stays below 0.56 in all but one of a thousand draws."""

SIZES = (0.0, 2.0, 4.0, 8.0)
"""Corruptions in standard deviations: not to score lower than the one before, and (the largest)
to be found in its place."""

PROBES = 64
"""Windows over which attribution is averaged."""


def ranks_anomalies_higher(subject: Subject, source: Source) -> None:
    """Require finite scores, and higher ones for the anomalies of a source the detector names."""
    detector, data = subject.trained(source), sample(source)
    normal = detector.score(data.normal).score
    anomalous = detector.score(data.anomalous).score
    require(normal.isfinite().all() and anomalous.isfinite().all(), "scores are not finite")
    share = ranking(normal, anomalous)
    require(share >= CLEAR, f"ROC AUC {share:.3f}, expected at least {CLEAR}")
    means = f"mean score {float(anomalous.mean()):.4g} of anomalies"
    require(anomalous.mean() > normal.mean(), f"{means}, {float(normal.mean()):.4g} of normals")


def ranking(normal: Tensor, anomalous: Tensor) -> float:
    """Return the area under the ROC curve: pairs in the right order, ties counting half."""
    ordered = normal.sort().values
    below = torch.searchsorted(ordered, anomalous)
    upto = torch.searchsorted(ordered, anomalous, right=True)
    return float((below + upto).double().mean()) / (2 * len(normal))


def rises_with_the_anomaly(subject: Subject, source: Source) -> None:
    """Require that mean scores do not fall as one number moves away from what it was."""
    detector, data = subject.trained(source), _probes(sample(source))
    ramps = zip(
        *(_corruptions(data, _middle(data), data.features - 1, s) for s in SIZES), strict=True
    )
    for ramp in ramps:
        means = [float(detector.score(corrupted).score.mean()) for corrupted in ramp]
        slack = 0.02 * (means[-1] - means[0])
        rising = all(later >= earlier - slack for earlier, later in itertools.pairwise(means))
        found = ", ".join(f"{value:.4g}" for value in means)
        require(rising and means[-1] > means[0], f"moved by {SIZES} deviations: {found}")


def blames_the_feature(subject: Subject, source: Source) -> None:
    """Require that attribution peaks, on average, at the one feature that was corrupted."""
    detector, data = subject.trained(source), _probes(sample(source))
    trials = [
        (feature, corrupted)
        for feature in range(data.features + data.fields)
        for corrupted in _corruptions(data, _middle(data), feature)
    ]
    for feature, corrupted in _telling(detector, trials):
        shares = _attribution(detector, corrupted, "feature").sum(dim=1).mean(dim=0)
        peak = int(shares.argmax())
        require(peak == feature, f"feature {feature} was corrupted, {_told(peak, shares)}")


def blames_the_step(subject: Subject, source: Source) -> None:
    """Require that attribution peaks, on average, at the one step that was corrupted.

    A source of records is cut into steps.
    """
    if sample(source).normal.steps > 1:
        detector, data = subject.trained(source), _probes(sample(source))
    else:
        detector, data = subject.learn(in_steps(source)), _probes(in_steps(source))
    reach = int(data.lengths.min())
    trials = [
        (step, corrupted)
        for step in (reach // 4, reach // 2, 3 * reach // 4)
        for corrupted in _corruptions(data, step, 0)
    ]
    for step, corrupted in _telling(detector, trials):
        shares = _attribution(detector, corrupted, "step").mean(dim=0)
        peak = int(shares.argmax())
        require(peak == step, f"step {step} was corrupted, {_told(peak, shares)}")


def _telling(
    detector: Detector, trials: list[tuple[int, WindowBatch]]
) -> list[tuple[int, WindowBatch]]:
    """Leave the corruptions that attribution has to find.

    Labels teach that some numbers do not matter: of who needs them, that is the corruption that
    raises the score most.
    """
    if not detector.caps.min_labels:
        return trials
    return [max(trials, key=lambda trial: float(detector.score(trial[1]).score.mean()))]


def _probes(data: Sample) -> WindowBatch:
    """Return some of the longer normal windows."""
    normal = data.normal
    return normal[normal.lengths >= normal.lengths.median()][:PROBES]


def _middle(data: WindowBatch) -> int:
    return int(data.lengths.min()) // 2


def _corruptions(
    data: WindowBatch, step: int, feature: int, size: float = SIZES[-1]
) -> list[WindowBatch]:
    """Change one entry of every window: a number up or down, a category to a new value."""
    if feature >= data.features:
        cat = data.cat.clone()
        cat[:, step, feature - data.features] = NEW
        return [replace(data, cat=cat)]
    up, down = data.num.clone(), data.num.clone()
    up[:, step, feature] += size * data.num[:, :, feature].std()
    down[:, step, feature] -= size * data.num[:, :, feature].std()
    return [replace(data, num=up), replace(data, num=down)]


def _attribution(detector: Detector, data: WindowBatch, part: str) -> Tensor:
    found: Tensor | None = getattr(detector.score(data, explain="full"), part)
    require(found is not None, f"no {part} attribution")
    return torch.zeros(0) if found is None else found


def _told(peak: int, shares: Tensor) -> str:
    return f"{peak} is blamed; mean shares {np.round(shares.numpy(), 4).tolist()}"


def device_parity(subject: Subject, name: str) -> None:
    """Require that a model scores on a GPU as on the CPU, and that one can be fitted there.

    Scores may differ by 1e-4 of their size, those near zero by 1e-4 of the usual size.
    """
    data, model = small(name, seed=2), subject.quick(name)
    files = model.to_files()
    description = msgspec.json.decode(files[DESCRIPTION], type=Description)
    on_gpu = subject.new(device="cuda").restore(description, files[WEIGHTS])
    expected, found = model.score(data).score, on_gpu.score(data).score.cpu()
    usual = expected.abs().median().clamp(min=1e-3)
    gap = ((found - expected).abs() / expected.abs().maximum(usual)).max()
    require(gap <= 1e-4, f"scores on CPU and GPU differ by {float(gap):.3g} of their size")
    before = torch.cuda.get_rng_state()
    fitted = subject.new(device="cuda").fit(small(name), subject.labels(len(data)), budget=QUICK)
    require(torch.equal(torch.cuda.get_rng_state(), before), "the GPU's generator changed")
    scores = fitted.score(data, explain="full")
    require(scores.score.isfinite().all(), "fitted on a GPU: infinite scores")
