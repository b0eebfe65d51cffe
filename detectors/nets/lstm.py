"""LSTM encoder and the decoder that unrolls a code into a window."""

from __future__ import annotations

from torch import Tensor, nn

from detectors.nets.recurrent import last_real


class LstmEncoder(nn.Module):
    """Reads a window; its code is the hidden state after the last real step.

    Parameters
    ----------
    inputs, hidden
        Numbers per step, and size of the state.
    bias
        Whether the gates have constants.
    """

    def __init__(self, inputs: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, bias=bias, batch_first=True)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, inputs]`` to ``[B, hidden]``."""
        outputs, _ = self.lstm(steps)
        return last_real(outputs, mask)


class LstmDecoder(nn.Module):
    """Unrolls a code over any number of steps, in one fused call.

    The code is the input of every step; the decoder never sees a value of the window, neither the
    true one nor its own last output.
    """

    def __init__(self, code: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(code, hidden, batch_first=True)

    def forward(self, code: Tensor, steps: int) -> Tensor:
        """``[B, code]`` to ``[B, steps, hidden]``."""
        outputs: Tensor = self.lstm(code.unsqueeze(1).expand(-1, steps, -1))[0]
        return outputs
