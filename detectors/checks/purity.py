"""Checks that fitting and scoring leave everything else as it was."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn

from detectors.checks.subject import Subject, copy, require, require_close, small, tensors
from detectors.detector import Detector


def input_untouched(subject: Subject, name: str) -> None:
    """Require that neither ``fit`` nor ``score`` writes to its input."""
    data = small(name)
    before = copy(data)
    detector = subject.fit(data)
    detector.score(data, explain="full")
    for part in ("num", "cat", "mask"):
        same = torch.equal(getattr(data, part), getattr(before, part))
        require(same, f"{part} was written to")


def nothing_shared(subject: Subject, name: str) -> None:
    """Require that neither detector nor scores keep a view of the caller's memory."""
    train, data = small(name), small(name, seed=2)
    detector = subject.fit(train)
    first = tensors(detector.score(data, explain="full"))
    expected = {part: found.clone() for part, found in first.items()}
    for batch in (train, data):
        batch.num.fill_(77.0)
        batch.cat.fill_(1)
        batch.mask.fill_(True)
    for part, found in first.items():
        require(torch.equal(found, expected[part]), f"{part} is a view of the input")
        with torch.inference_mode():
            found.fill_(-1.0)
    for part, found in tensors(detector.score(small(name, seed=2), explain="full")).items():
        require(torch.equal(found, expected[part]), f"{part} changed with the caller's memory")


def scoring_changes_nothing(subject: Subject, name: str) -> None:
    """Require the same bits from a second call, and state, gradients and modes as before."""
    detector, data = subject.quick(name), small(name, seed=2)
    files, modes = detector.to_files(), _modes(detector)
    first = tensors(detector.score(data, explain="full"))
    detector.score(small(name, seed=3))
    for part, found in tensors(detector.score(data, explain="full")).items():
        require(torch.equal(found, first[part]), f"{part} differs at the second call")
        require(not found.requires_grad, f"{part} carries a gradient")
    require(detector.to_files() == files, "scoring changed the state")
    require(_modes(detector) == modes, "scoring changed a training flag or left a gradient")


def _modes(detector: Detector) -> list[tuple[bool, bool]]:
    modules = [found for value in vars(detector).values() for found in _modules(value)]
    return [
        (module.training, any(p.grad is not None for p in module.parameters()))
        for module in modules
    ]


def _modules(value: Any) -> list[nn.Module]:
    if isinstance(value, nn.Module):
        return list(value.modules())
    if isinstance(value, list | tuple):
        return [module for part in value for module in _modules(part)]
    return []


def ambient_state_untouched(subject: Subject, name: str) -> None:
    """Require that global random generators and torch's switches are as before."""
    before = _ambient()
    detector = subject.fit(small(name))
    detector.score(small(name, seed=2), explain="full")
    after = _ambient()
    changed = [key for key in before if before[key] != after[key]]
    require(not changed, f"changed: {', '.join(changed)}")


def _ambient() -> dict[str, Any]:
    algorithm, keys, *rest = np.random.get_state()
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": (algorithm, np.asarray(keys).tolist(), rest),
        "random's generator": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "TF32 of cuDNN": torch.backends.cudnn.allow_tf32,
    }


def instances_independent(subject: Subject, name: str) -> None:
    """Require that a second instance, fitted on other data, leaves the first one alone."""
    detector, data = subject.fit(small(name)), small(name, seed=2)
    expected = detector.score(data).score
    subject.fit(small(name, seed=5), seed=9)
    require_close(detector.score(data).score, expected, "before and after another fit")
