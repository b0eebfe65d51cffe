"""Weights of a network as the named tensors of a detector's state, and back."""

from __future__ import annotations

from torch import Tensor, nn


def module_state(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Parameters and buffers, with names that start with ``prefix``."""
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """Take over what :func:`module_state` gave; ready to score, without gradients.

    Raises
    ------
    RuntimeError
        If a tensor is missing, left over, or of another shape.
    """
    own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    module.load_state_dict(own)
    module.eval().requires_grad_(False)
