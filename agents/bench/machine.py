"""What a figure was measured on."""

from __future__ import annotations

import os
import platform


def machine() -> str:
    """Name the machine."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
