"""Which features move together, as small maps over time, and a network that copies the last one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.device import beside

KERNEL, STRIDE = 3, 2


def signature_maps(steps: Tensor, mask: Tensor, scales: tuple[int, ...], maps: int) -> Tensor:
    """Mean products of all pairs of columns, ``[B, maps, S, E, E]``.

    Parameters
    ----------
    steps, mask
        ``[B, T, E]`` and ``[B, T]``.
    scales
        The ``S`` numbers of steps, up to the end of a map, that means are taken over; only those
        that are there count.
    maps
        Ends that part the real steps of a window evenly; the last one is its last step.
    """
    lengths = mask.sum(dim=1, keepdim=True)
    share = torch.arange(1, maps + 1, device=mask.device)
    end = (lengths * share + maps - 1) // maps
    reach = beside(torch.tensor(scales), mask)
    ago = end.unsqueeze(-1) - 1 - torch.arange(mask.shape[1], device=mask.device)
    held = ((ago >= 0).unsqueeze(2) & (ago.unsqueeze(2) < reach.unsqueeze(-1))).to(steps.dtype)
    weight = held / held.sum(dim=-1, keepdim=True).clamp(min=1)
    weighted = weight.unsqueeze(-1) * steps[:, None, None]
    return torch.einsum("bmste,btf->bmsef", weighted, steps)


class ConvLstmCell(nn.Module):
    """An LSTM whose gates are convolutions over a map."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, KERNEL, padding=KERNEL // 2)
        nn.init.zeros_(self.gates.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.gates.bias[hidden : 2 * hidden] = 1.0  # type: ignore[index]  # it remembers at first

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return output and memory, ``[B, hidden, h, w]`` each."""
        output, memory = state
        gates = self.gates(torch.cat([inputs, output], dim=1))
        write, keep, read, new = gates.chunk(4, dim=1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(write) * torch.tanh(new)
        return torch.sigmoid(read) * torch.tanh(memory), memory


class MapAutoencoder(nn.Module):
    """Reads a series of maps and copies the last one, through a quarter of its height and width.

    Parameters
    ----------
    scales
        Channels ``S`` of a map.
    width, code
        Channels of the first level, half of those of the second, and of the memory.
    """

    def __init__(self, scales: int, width: int, code: int) -> None:
        super().__init__()
        half = KERNEL // 2
        widths = ((scales, width), (width, 2 * width))
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, KERNEL, stride=STRIDE, padding=half) for a, b in widths
        )
        self.cell = ConvLstmCell(2 * width, code)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, KERNEL, stride=STRIDE, padding=half)
            for a, b in ((code, width), (width, scales))
        )

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, n, S, E, E]`` to ``[B, S, E, E]``, the same if transposed."""
        hidden, sizes = maps.flatten(0, 1), []
        for layer in self.down:
            sizes.append(hidden.shape[-2:])
            hidden = torch.relu(layer(hidden))
        series = hidden.view(*maps.shape[:2], *hidden.shape[1:]).unbind(dim=1)
        zero = series[0].new_zeros((len(maps), self.cell.hidden, *series[0].shape[-2:]))
        state = (zero, zero)
        for inputs in series:
            state = self.cell(inputs, state)
        inner = torch.relu(self.up[0](state[0], output_size=sizes.pop()))
        copy: Tensor = self.up[1](inner, output_size=sizes.pop())
        return (copy + copy.transpose(-1, -2)) / 2
