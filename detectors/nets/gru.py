"""GRU over the steps of a window."""

from __future__ import annotations

from torch import Tensor, nn


class Gru(nn.Module):
    """One output per step, made of that step and the ones before it.

    Padding stands on the right, so that no real step ever sees it; the state after the window is
    :func:`detectors.nets.recurrent.last_real` of the outputs.

    Parameters
    ----------
    inputs, hidden
        Numbers per step, and size of the state.
    bias
        Whether the gates have constants.
    """

    def __init__(self, inputs: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, bias=bias, batch_first=True)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, inputs]`` and ``mask [B, T]`` to ``[B, T, hidden]``, 0 under the mask."""
        outputs: Tensor = self.gru(steps)[0]
        return outputs * mask.unsqueeze(-1)
