"""Synthetic data with a known truth: what each kind of detector must at least be able to tell.

Every source is drawn from a fixed seed: 2,000 training windows, 500 held-out normals and 500
anomalies. They are easy on purpose. A detector names those that match what it can see
(``Capabilities.sources``); to be blind to another is not a defect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.batch import WindowBatch, as_batch, events
from detectors.capabilities import Source

TRAIN, TEST = 2000, 500
STEPS = 4
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Windows to fit on (with labels, where the source has any) and windows to tell apart."""

    train: WindowBatch
    normal: WindowBatch
    anomalous: WindowBatch
    labels: NDArray[np.int8] | None = None


@functools.cache
def sample(source: Source) -> Sample:
    """Draw ``source``; the same every time."""
    return _SOURCES[source](np.random.default_rng(20_200_707))


@functools.cache
def in_steps(source: Source) -> Sample:
    """Return ``source``, its records cut into windows of ``STEPS`` steps.

    Who reads the steps of a window as one record can tell what it can in records, and which step
    it is.
    """
    data = sample(source)
    return Sample(_cut(data.train), _cut(data.normal), _cut(data.anomalous), data.labels)


def _cut(records: WindowBatch) -> WindowBatch:
    return as_batch(records.num.reshape(len(records), STEPS, -1))


def _numbers(draw: Callable[[int], Floats], anomalous: Floats) -> Sample:
    return Sample(as_batch(draw(TRAIN)), as_batch(draw(TEST)), as_batch(anomalous))


def subspace(rng: np.random.Generator) -> Sample:
    """Sixteen numbers near a space of three dimensions; anomalies stand at right angles to it."""
    basis = rng.normal(size=(16, 3))
    return _numbers(lambda n: _inside(rng, basis, n), _outside(rng, basis, TEST))


def _inside(rng: np.random.Generator, basis: Floats, n: int) -> Floats:
    noise: Floats = 0.05 * rng.normal(size=(n, len(basis)))
    plane: Floats = rng.normal(size=(n, basis.shape[1])) @ basis.T
    plane += noise
    return plane


def _outside(
    rng: np.random.Generator, basis: Floats, n: int, direction: Floats | None = None
) -> Floats:
    """``n`` points as far out as normal ones, but orthogonal to the columns of ``basis``."""
    orthonormal, _ = np.linalg.qr(basis)
    away = rng.normal(size=(n, len(basis))) if direction is None else np.tile(direction, (n, 1))
    away = away - away @ orthonormal @ orthonormal.T
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    size: Floats = np.linalg.norm(_inside(rng, basis, n), axis=1, keepdims=True)
    outside: Floats = away * size
    return outside


def clusters(rng: np.random.Generator) -> Sample:
    """Three round blobs in eight dimensions; anomalies lie in the box around them, in no blob."""
    centres = np.zeros((3, 8))
    centres[:, :3] = np.eye(3) * 8 / np.sqrt(2)

    def draw(n: int) -> Floats:
        blob: Floats = centres[rng.integers(3, size=n)] + rng.normal(size=(n, 8))
        return blob

    reference = draw(TRAIN)
    box = rng.uniform(reference.min(axis=0), reference.max(axis=0), size=(40 * TEST, 8))
    far = np.linalg.norm(box[:, None] - centres, axis=2).min(axis=1) >= 5
    return _numbers(draw, box[far][:TEST])


def waves(rng: np.random.Generator) -> Sample:
    """Six sines that share a phase; anomalies are a spike, a feature of noise, or swapped lags."""
    ratio = np.array([1.0, 1, 1, 1, 1, 2])
    lag = np.array([-0.7, 0.7, 1.2, 1.6, 2.0, 0.0])
    time = 2 * np.pi * np.arange(48)[:, None] / 24

    def draw(n: int) -> Floats:
        phase = rng.uniform(0, 2 * np.pi, size=(n, 1, 1))
        noise: Floats = 0.05 * rng.normal(size=(n, 48, 6))
        signal: Floats = np.sin(ratio * (time + phase) + lag)
        return signal + noise

    anomalous = draw(TEST)
    for i, window in enumerate(anomalous):
        if i % 3 == 0:
            window[rng.integers(48), rng.integers(6)] += rng.choice([-4.0, 4.0])
        elif i % 3 == 1:
            window[:, rng.integers(6)] = rng.normal(size=48) * np.sqrt(0.5)
        else:
            window[:, [0, 1]] = window[:, [1, 0]]
    return _numbers(draw, anomalous)


def blocks(rng: np.random.Generator) -> Sample:
    """Draw steps without any order; in anomalies, those of the second half have another mean."""

    def draw(n: int) -> Floats:
        noise: Floats = rng.normal(size=(n, 32, 8))
        return noise

    anomalous = draw(TEST)
    away = rng.normal(size=(TEST, 1, 8))
    anomalous[:, 16:] += 1.5 * away / np.linalg.norm(away, axis=2, keepdims=True)
    return _numbers(draw, anomalous)


def grammar(rng: np.random.Generator) -> Sample:
    """Step along a chain of 20 ids; anomalies hold a forbidden step or are shuffled."""
    successors = np.stack([rng.permutation(20)[:3] for _ in range(20)])

    def walk(n: int, forbidden_at: Ids | None = None) -> Ids:
        ids = np.zeros((n, 30), dtype=np.int64)
        ids[:, 0] = rng.integers(20, size=n)
        for t in range(1, 30):
            ids[:, t] = successors[ids[:, t - 1], rng.choice(3, size=n, p=[0.6, 0.3, 0.1])]
            for row in [] if forbidden_at is None else np.flatnonzero(forbidden_at == t):
                ids[row, t] = rng.choice(np.setdiff1d(np.arange(20), successors[ids[row, t - 1]]))
        return ids

    broken = walk(TEST // 2, rng.integers(5, 25, size=TEST // 2))
    shuffled = rng.permuted(walk(TEST // 2), axis=1)
    anomalous = np.concatenate([broken, shuffled])
    train, normal, odd = (events(ids + 2, vocab=22) for ids in (walk(TRAIN), walk(TEST), anomalous))
    return Sample(train, normal, odd)


def sessions(rng: np.random.Generator) -> Sample:
    """Sessions of a few recurring compositions; anomalies lack, repeat or invent an event."""
    core = [2, 3, 3, 3, 4, 4, 5, 6, 6, 6]
    blocks = [[], [7, 8], [7, 8, 9, 9], [7, 7, 8, 8], [10, 11, 11]]
    vocab, longest = 16, 20

    def draw(n: int, damaged: bool = False) -> WindowBatch:
        ids = np.zeros((n, longest), dtype=np.int64)
        lengths = np.zeros(n, dtype=np.int64)
        for i in range(n):
            session = list(rng.permutation(core + blocks[rng.integers(len(blocks))]))
            if damaged:
                damages = (_lose, _repeat, _invent)
                session = damages[i % 3](rng, session)
            ids[i, : len(session)], lengths[i] = session, len(session)
        return events(ids, lengths, vocab=vocab)

    return Sample(draw(TRAIN), draw(TEST), draw(TEST, damaged=True))


def _lose(rng: np.random.Generator, session: list[int]) -> list[int]:
    gone = rng.choice([2, 4, 5])
    return [event for event in session if event != gone]


def _repeat(rng: np.random.Generator, session: list[int]) -> list[int]:
    return session + [int(rng.choice([2, 5]))] * 3


def _invent(rng: np.random.Generator, session: list[int]) -> list[int]:
    place = int(rng.integers(len(session)))
    return [*session[:place], int(rng.integers(12, 16)), *session[place:]]


def paths(rng: np.random.Generator) -> Sample:
    """Users, hosts and services of two communities; anomalies mix frequent values of both."""
    rank = 1.0 / np.arange(1, 21)

    def draw(n: int) -> Ids:
        values: Ids = rng.choice(20, size=(n, 3), p=rank / rank.sum())
        community: Ids = rng.integers(2, size=(n, 1))
        return values + 20 * community

    def mixed(n: int) -> Ids:
        side = np.array([[0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0]])
        values: Ids = rng.integers(5, size=(n, 3))
        community: Ids = side[rng.integers(len(side), size=n)]
        return values + 20 * community

    def batch(values: Ids) -> WindowBatch:
        return WindowBatch(
            num=torch.zeros(len(values), 1, 0),
            cat=torch.from_numpy(values + 2).unsqueeze(1),
            mask=torch.ones(len(values), 1, dtype=torch.bool),
            vocab=(42, 42, 42),
        )

    return Sample(batch(draw(TRAIN)), batch(draw(TEST)), batch(mixed(TEST)))


def graphs(rng: np.random.Generator) -> Sample:
    """Flows within two groups of hosts that differ in their numbers.

    In an anomalous window one host sends as those of the other group do.
    """
    steps, hosts = 24, 8
    level = np.array([[-1.0, 0.5], [1.0, -0.5]])

    def draw(n: int, changed: bool = False) -> WindowBatch:
        group: Ids = rng.integers(2, size=(n, steps))
        ends: Ids = rng.integers(hosts, size=(n, steps, 2)) + hosts * group[..., None]
        sends = group.copy()
        if changed:
            one = ends[:, 0, :1]
            sends = np.where(ends[..., 0] == one, 1 - group, group)
        num = level[sends] + 0.2 * rng.normal(size=(n, steps, 2))
        return WindowBatch(
            num=torch.from_numpy(num).float(),
            cat=torch.from_numpy(ends + 2),
            mask=torch.ones(n, steps, dtype=torch.bool),
            vocab=(2 * hosts + 2, 2 * hosts + 2),
        )

    return Sample(draw(TRAIN), draw(TEST), draw(TEST, changed=True))


def bags(rng: np.random.Generator) -> Sample:
    """Sessions of slow waves; a labelled one, and every anomalous one, holds six quick steps."""
    steps, labelled = 48, 60

    def draw(n: int, anomalous: Ids | None = None) -> Floats:
        phase = rng.uniform(0, 2 * np.pi, size=(n, 1, 1))
        time = np.arange(steps)[None, :, None] / 4 + phase + np.array([0.0, 1.0, 2.0])
        values: Floats = np.sin(time) + 0.1 * rng.normal(size=(n, steps, 3))
        for row in [] if anomalous is None else anomalous:
            start = rng.integers(steps - 6)
            values[row, start : start + 6] = np.sin(4 * time[row, start : start + 6])
        return values

    marked = np.sort(rng.permutation(TRAIN)[:labelled])
    labels = np.full(TRAIN, -1, dtype=np.int8)
    labels[marked] = 1
    train, normal, odd = draw(TRAIN, marked), draw(TEST), draw(TEST, np.arange(TEST))
    return Sample(as_batch(train), as_batch(normal), as_batch(odd), labels)


def onesided(rng: np.random.Generator) -> Sample:
    """One blob away from the origin; anomalies surround the origin."""
    return _numbers(lambda n: 3.0 + rng.normal(size=(n, 8)), 0.7 * rng.normal(size=(TEST, 8)))


def fewlabels(rng: np.random.Generator) -> Sample:
    """SUBSPACE with 2 % unlabelled anomalies of all kinds and ten labelled ones of one kind."""
    basis, direction = rng.normal(size=(16, 3)), rng.normal(size=16)
    train = _inside(rng, basis, TRAIN)
    order = rng.permutation(TRAIN)
    hidden, labelled = order[: TRAIN // 50], order[-10:]
    train[hidden] = _outside(rng, basis, len(hidden))
    train[labelled] = _outside(rng, basis, len(labelled), direction)
    labels = np.full(TRAIN, -1, dtype=np.int8)
    labels[labelled] = 1
    anomalous = _outside(rng, basis, TEST, direction)
    return Sample(as_batch(train), as_batch(_inside(rng, basis, TEST)), as_batch(anomalous), labels)


_SOURCES: dict[Source, Callable[[np.random.Generator], Sample]] = {
    "SUBSPACE": subspace,
    "CLUSTERS": clusters,
    "WAVES": waves,
    "BLOCKS": blocks,
    "GRAMMAR": grammar,
    "SESSIONS": sessions,
    "PATHS": paths,
    "GRAPHS": graphs,
    "BAGS": bags,
    "ONESIDED": onesided,
    "FEWLABELS": fewlabels,
}
