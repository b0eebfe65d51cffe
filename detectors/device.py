"""Choosing where tensors live."""

import torch
from torch import Tensor

from schemas.errors import SetupError


def pick_device(name: str) -> str:
    """Resolve ``auto`` to ``cuda`` where there is one, else ``cpu``.

    Raises
    ------
    SetupError
        If a CUDA device is asked for by name and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        msg = f"scoring.device: {name!r}, but there is no CUDA device here; use auto or cpu"
        raise SetupError(msg)
    return name


def beside(drawn: Tensor, other: Tensor) -> Tensor:
    """Move what was drawn on the CPU, so that every device draws the same, to where ``other`` lies.

    The host does not wait for the device.
    """
    return drawn.to(other.device, non_blocking=True)


def on_one_core() -> None:
    """Keep this process on one core of the CPU, for times that compare."""
    torch.set_num_threads(1)
