"""Python's cycle collector, kept from walking what stays for ever.

A fetch makes thousands of objects that live until their batch is done, which the collector takes
for a leak: by default it then walks every object of the process again and again, those of the
imported libraries too. That took a quarter of a busy worker's time.
"""

from __future__ import annotations

import gc

__all__ = ["collect_rarely"]

# Objects made and not yet freed before the youngest are looked at: more than one batch makes.
YOUNG = 50_000
GENERATIONS = 20


def collect_rarely() -> None:
    """Tune the collector of this process for a worker; to be called when all is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, GENERATIONS, GENERATIONS)
