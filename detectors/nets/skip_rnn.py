"""Recurrent networks with random connections over time, many side by side in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.nets.recurrent import reverse_real
from detectors.nets.stacked import StackedLinear

CHOICES = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))
"""Weights of the last state and of the one further back, of which each step draws a pair."""


class SkipRnn(nn.Module):
    """``h_t = w_1 tanh(V x_t + U h_(t-1) + b) + w_2 tanh(V' x_t + U' h_(t-L) + b')``, ``M`` times.

    Each of the ``M`` networks draws its ``L`` once, and for every step a pair ``(w_1, w_2)`` of
    ``CHOICES``. Under the mask a state is held.

    Parameters
    ----------
    members, inputs, hidden
        ``M``, numbers per step, and size of a state.
    steps
        Longest window; it has a connection pattern for each step.
    reach
        Largest ``L``.
    """

    skip: Tensor
    share: Tensor

    def __init__(self, members: int, inputs: int, hidden: int, steps: int, reach: int) -> None:
        super().__init__()
        self.members, self.reach = members, reach
        # both halves of all networks are one stack: the first by the last state, then by h_(t-L)
        self.read = StackedLinear(2 * members, inputs, hidden)
        self.recur = StackedLinear(2 * members, hidden, hidden, bias=False)
        for weight in self.recur.weight.data:
            nn.init.orthogonal_(weight)  # a state lasts as long as a window
        self.register_buffer("skip", torch.randint(1, reach + 1, (members,)))
        drawn = torch.randint(len(CHOICES), (members, steps))
        self.register_buffer("share", torch.tensor(CHOICES)[drawn])
        self._learn_skips()
        self.register_load_state_dict_post_hook(SkipRnn._learn_skips)  # type: ignore[no-untyped-call]

    def _learn_skips(self, *_: object) -> None:
        """Keep the skips as numbers: to ask a device for them would make the host wait."""
        self._skips: list[int] = self.skip.tolist()

    def forward(self, inputs: Tensor, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the states ``[M, B, T, hidden]``.

        Parameters
        ----------
        inputs
            ``[B, T, inputs]`` for all networks, or ``[M, B, 1, inputs]`` for one each, to be read
            again at every step.
        mask
            ``[B, T]``.
        start
            First states ``[M, B, hidden]``; zeros if left out.
        """
        windows, steps = mask.shape
        zero = inputs.new_zeros((self.members, windows, self.recur.weight.shape[2]))
        states = [zero] * (self.reach - 1) + [zero if start is None else start]
        for t, step in enumerate(self._read(inputs, steps)):
            back = [states[-skip][member : member + 1] for member, skip in enumerate(self._skips)]
            both = torch.cat([states[-1], *back])
            first, second = torch.tanh(torch.baddbmm(step, both, self.recur.weight)).chunk(2)
            share = self.share[:, t, :, None, None]
            state = share[:, 0] * first + share[:, 1] * second
            states.append(torch.where(mask[:, t, None], state, states[-1]))
        return torch.stack(states[self.reach :], dim=2)

    def _read(self, inputs: Tensor, steps: int) -> Sequence[Tensor]:
        """Read each step with all networks, ``steps`` times ``[2 M, B, hidden]``."""
        if inputs.dim() == 4:
            return [self.read(inputs.squeeze(2).repeat(2, 1, 1))] * steps
        weight, bias = self.read.weight.transpose(1, 2), self.read.bias
        # all networks read the same: one product with all their weights
        read = nn.functional.linear(inputs, weight.flatten(0, 1))
        read = read.view(*inputs.shape[:2], *weight.shape[:2]).permute(1, 2, 0, 3)
        return read.unbind() if bias is None else (read + bias).unbind()


class SkipAutoencoder(nn.Module):
    """``M`` encoders read a window, and ``M`` decoders tell it from the codes, last step first.

    Parameters
    ----------
    shared
        Whether the codes are combined into one that all decoders start from.
    """

    def __init__(
        self, members: int, inputs: int, hidden: int, steps: int, reach: int, *, shared: bool
    ) -> None:
        super().__init__()
        self.encoder = SkipRnn(members, inputs, hidden, steps, reach)
        self.combine = nn.Linear(members * hidden, hidden) if shared else None
        self.decoder = SkipRnn(members, hidden, hidden, steps, reach)
        self.head = StackedLinear(members, hidden, inputs)

    def encode(self, steps: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, inputs]`` to codes ``[M, B, hidden]``, or one ``[1, B, hidden]`` of all."""
        codes: Tensor = self.encoder(steps, mask)[
            :, :, -1
        ]  # a state is held to the end of the window
        if self.combine is None:
            return codes
        combined: Tensor = self.combine(codes.transpose(0, 1).flatten(1))
        return combined.unsqueeze(0)

    def decode(self, codes: Tensor, mask: Tensor) -> Tensor:
        """Codes to copies ``[M, B, T, inputs]``."""
        codes = codes.expand(self.decoder.members, -1, -1)
        states = self.decoder(codes.unsqueeze(2), mask, codes)
        told: Tensor = self.head(states.flatten(1, 2))
        shape = (len(told), *mask.shape, -1)
        in_order = reverse_real(
            told.view(-1, mask.shape[1], told.shape[2]), mask.repeat(len(told), 1)
        )
        return in_order.view(shape)
