"""The optimiser: Muon for the matrices of the convolutions, AdamW for the rest, as one object.

Muon (Jordan et al. 2024; torch.optim.Muon) makes each step of a matrix orthogonal, so that no few directions take all of it. A
convolution's weights [out, in, kh, kw] are a matrix of in * kh * kw columns to it. On these networks it is worth 0.2 dB in the
same time (training/README.md).
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

BETAS: Final = (0.9, 0.99)  # of AdamW


class Optimiser:
    """Steps on a dictionary of leaf tensors in place, each by its own gradient."""

    def __init__(self, weights: Mapping[str, Tensor], rate: float, weight_decay: float) -> None:
        """rate: as for AdamW; Muon's steps are scaled to the same root mean square (Liu et al. 2025)."""
        self.weights = weights
        self._kernels = [weight for weight in weights.values() if weight.dim() == 4 and weight.shape[1] > 1]
        chosen = {id(weight) for weight in self._kernels}
        others = [weight for weight in weights.values() if id(weight) not in chosen]  # biases, and filters of one channel
        self._matrices = [weight.detach().flatten(1) for weight in self._kernels]  # the same memory
        groups = [
            {"params": [weight for weight in others if weight.dim() == 4], "weight_decay": weight_decay},
            {"params": [weight for weight in others if weight.dim() != 4], "weight_decay": 0.0},
        ]
        self._parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=BETAS)]
        if self._matrices:
            muon = torch.optim.Muon(self._matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)

    def step(self, rate: float) -> None:
        """One step at a learning rate."""
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state(self) -> list[dict[str, Any]]:
        """What `load` takes."""
        return [part.state_dict() for part in self._parts]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Go on from a kept state, on the weights' device."""
        for part, kept in zip(self._parts, state, strict=True):
            part.load_state_dict(kept)
