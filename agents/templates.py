"""Log lines to templates: mined once at fit, only matched while serving.

A line is masked first (every word with a digit in it is a parameter), then matched against the
mined templates. A line that matches none keeps its masked form as its template. Templates and
category values travel as codes: stable 32-bit hashes, so that window state does not depend on any
model's vocabulary and survives a change of model.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

WILDCARD = "<*>"
MISSING_CODE = 0
_LETTER = r"[^\s=:\[\](){}\",;]"
# Tried at the beginnings of words only: tried within a long word, too, it would take time that
# grows with the square of its length.
_PARAMETER = re.compile(rf"(?<!{_LETTER}){_LETTER}*\d{_LETTER}*")
_CACHE = 65_536
_TEMPLATES = 10_000
_CACHE_LETTERS = 1 << 23
Codes = NDArray[np.int32]


def code_of(text: str) -> int:
    """Hash a category value or template to a signed 32-bit code, never ``MISSING_CODE``."""
    return zlib.crc32(text.encode()) - 2**31 or 1


def mask(line: str) -> str:
    """Replace the words of a line that hold digits by the wildcard."""
    return _PARAMETER.sub(WILDCARD, line)


class CodeCache:
    """Codes of strings, remembered; a bounded memory that changes no result."""

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {None: MISSING_CODE}
        self._letters = 0

    def __call__(self, values: Sequence[str | None]) -> Codes:
        """Return the ``[n]`` codes of values."""
        codes = self._codes
        try:
            return np.array([codes[value] for value in values], dtype=np.int32)
        except KeyError:
            if len(codes) > _CACHE or self._letters > _CACHE_LETTERS:
                self._codes, self._letters = {None: MISSING_CODE}, 0
                codes = self._codes
            for value in values:
                if value is not None and value not in codes:
                    codes[value] = code_of(value)
                    self._letters += len(value)
            return np.array([codes[value] for value in values], dtype=np.int32)


class TemplateMatcher:
    """Matches lines against a fixed set of templates.

    Parameters
    ----------
    templates
        Mined templates; words separated by blanks, parameters as ``<*>``.
    """

    def __init__(self, templates: Iterable[str] = ()) -> None:
        self.templates = list(templates)
        self._by_length: dict[int, list[tuple[str, list[str]]]] = {}
        for template in self.templates:
            words = template.split()
            self._by_length.setdefault(len(words), []).append((template, words))
        self._cache: dict[str, str] = {}
        self._letters = 0

    def match(self, line: str) -> str:
        """Return the template of a line, or its masked form where none fits."""
        masked = mask(line)
        found = self._cache.get(masked)
        if found is None:
            if len(self._cache) > _CACHE or self._letters > _CACHE_LETTERS:
                self._cache.clear()
                self._letters = 0
            self._letters += 2 * len(masked)
            found = self._cache[masked] = self._search(masked)
        return found

    def codes(self, lines: Sequence[str | None]) -> Codes:
        """Return the ``[n]`` template codes of lines."""
        return np.array(
            [MISSING_CODE if line is None else code_of(self.match(line)) for line in lines],
            dtype=np.int32,
        )

    def _search(self, masked: str) -> str:
        words = masked.split()
        best, literal = " ".join(words), -1
        for template, pattern in self._by_length.get(len(words), ()):
            equal = 0
            for word, wanted in zip(words, pattern, strict=True):
                if word == wanted:
                    equal += 1
                elif WILDCARD not in wanted:
                    break
            else:
                if equal > literal:
                    best, literal = template, equal
        return best


def mine(lines: Iterable[str | None]) -> list[str]:
    """Mine the templates of a history of lines with Drain (He et al. 2017).

    Lines are masked first and each distinct masked line is mined once, so that the cost follows
    the variety of a log rather than its length. Of a log without any order the templates used
    last are kept.
    """
    from drain3 import TemplateMiner
    from drain3.template_miner_config import TemplateMinerConfig

    config = TemplateMinerConfig()
    config.drain_sim_th = 0.6
    config.drain_max_clusters = _TEMPLATES
    config.profiling_enabled = False
    miner = TemplateMiner(config=config)
    for masked in Counter(mask(line) for line in lines if line is not None):
        miner.add_log_message(masked)
    return sorted(" ".join(c.get_template().split()) for c in miner.drain.clusters)
