"""Labelled sequences of events, as session windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from agents.bench.accuracy.case import Bools, Case, Floats, Rows
from detectors.vocabulary import Vocabulary
from detectors.windows import Layout, WindowArrays, WindowEncoder

STEPS = 64
"""Events of a session that are kept: what a pipeline file that says nothing else keeps."""


@dataclass(frozen=True)
class Sessions:
    """Labelled event sequences, with the id of each."""

    ids: Sequence[str]
    events: Sequence[tuple[int, ...]]
    anomalous: Bools

    @classmethod
    def read(
        cls, folder: Path, name: str, *, key: str = "block_id", events: str = "events"
    ) -> Sessions:
        """Read ``folder/name.parquet`` with a key, event numbers, and the column ``label``."""
        columns = pq.read_table(folder / f"{name}.parquet", columns=[key, events, "label"])
        sequences = [tuple(sequence) for sequence in columns[events].to_pylist()]
        return cls(columns[key].to_pylist(), sequences, columns["label"].to_numpy() == 1)

    @property
    def layout(self) -> Layout:
        """What a model of these sessions is made for."""
        return Layout("logs", "route", STEPS, (), ("event",), "session")

    def windows(self, rows: Rows) -> WindowArrays:
        """Sessions as the pipeline keeps them: windows of events, of which the first are kept."""
        cat = np.zeros((len(rows), STEPS, 1), dtype=np.int32)
        length = np.zeros(len(rows), dtype=np.int64)
        for at, row in enumerate(rows.tolist()):
            kept = self.events[row][:STEPS]
            cat[at, : len(kept), 0] = kept
            length[at] = len(kept)
        nothing = np.empty((len(rows), STEPS, 0), dtype=np.float32)
        return WindowArrays(nothing, cat, length, np.arange(len(rows)))

    def counts(self, rows: Rows) -> Floats:
        """``[n, V]``: how often each event occurs in each session, for who knows no order."""
        size = max(max(events, default=0) for events in self.events) + 1
        return np.stack([np.bincount(self.events[row], minlength=size) for row in rows]).astype(
            float
        )

    def case(self, fit: Rows, test: Rows, labels: NDArray[np.int8] | None = None) -> Case:
        """Fit on some sessions, with or without labels ``[n]``, and test others."""
        known, judged = self.windows(fit), self.windows(test)
        real = known.cat[:, :, 0][np.arange(STEPS) < known.length[:, None]]
        encode = WindowEncoder(self.layout, [Vocabulary.fit(real)])
        flat = partial(_both, self, fit, test)
        return Case(encode(known), labels, encode(judged), self.anomalous[test], flat)


def _both(sessions: Sessions, fit: Rows, test: Rows) -> tuple[Floats, Floats]:
    return sessions.counts(fit), sessions.counts(test)
