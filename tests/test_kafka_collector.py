"""A worker's process does not walk for ever what it imported at its start."""

from __future__ import annotations

import gc

from connectors.kafka.collector import YOUNG, collect_rarely


def test_what_is_there_at_the_start_is_left_alone() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == YOUNG
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
