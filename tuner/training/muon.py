"""Muon: steps along the orthogonal factor of each matrix's momentum (https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM, STEPS = 0.95, 5
FIRST, SECOND, THIRD = 3.4445, -4.7750, 2.0315  # of the polynomial that brings singular values near 1


class Muon(torch.optim.Optimizer):
    """Muon for matrices and for kernels of convolutions (a row an output channel), AdamW for everything else.

    As torch.optim.Muon with `match_rms_adamw` (Liu et al. 2025, arXiv:2502.16982, section 2.2): one learning rate and
    weight decay serve both. In float32, since bfloat16 is slow on CPUs without units for it. A group with
    `"matrices": False`, such as tables of embeddings, goes to AdamW whole.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps, "matrices": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                matrix = group["matrices"] and parameter.ndim > 1
                move = self._along_matrix(parameter) if matrix else self._adaptive(parameter, group)
                parameter.add_(move.view_as(parameter), alpha=-group["lr"])

    def _along_matrix(self, parameter: Tensor) -> Tensor:
        gradient, state = parameter.grad.flatten(1).float(), self.state[parameter]  # type: ignore[union-attr]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        move = orthogonal(gradient.lerp(state["momentum"], MOMENTUM))
        return 0.2 * max(move.shape) ** 0.5 * move

    def _adaptive(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        gradient, state = parameter.grad.float(), self.state[parameter]  # type: ignore[union-attr]
        if "step" not in state:
            state |= {
                "step": torch.zeros(()),
                "first": torch.zeros_like(gradient),
                "second": torch.zeros_like(gradient),
            }
        state["step"] += 1
        taken, (slow, slower) = state["step"].item(), group["betas"]
        state["first"].lerp_(gradient, 1 - slow)
        state["second"].lerp_(gradient.square(), 1 - slower)
        root = (state["second"] / (1 - slower**taken)).sqrt_().add_(group["eps"])
        return state["first"] / (1 - slow**taken) / root


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor of a matrix (m, n): Newton-Schulz steps bring its singular values near 1.

    Each step is an odd polynomial of the matrix, so that the product of all their even factors can be had from its
    Gram matrix alone; for kernels of convolutions that is a third of the work.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T) / matrix.norm().clamp(min=1e-12)
    gram = x @ x.T
    factor = None
    for turn in range(STEPS):
        even = torch.addmm(gram, gram, gram, beta=SECOND, alpha=THIRD)
        even.diagonal().add_(FIRST)
        factor = even if factor is None else even @ factor
        if turn < STEPS - 1:
            gram = even @ gram @ even
    assert factor is not None
    x = factor @ x
    return x if wide else x.T
