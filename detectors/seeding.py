"""Drawing at random so that it follows from a seed, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawing_from(seed: int, device: str) -> Iterator[None]:
    """Let what is drawn follow from a seed, and leave the global generators as they were."""
    if torch.device(device).type == "cpu":  # the generators of other devices stay untouched
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    else:
        with torch.random.fork_rng(devices=range(torch.accelerator.device_count())):
            torch.manual_seed(seed)
            yield
