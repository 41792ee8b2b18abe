"""Two layers in forms that are quicker on processors; what they compute is the same.

Measured with a model of 135 M parameters in bf16 on two cores (Zen 5): with both, a step takes half the time. On a GPU,
PEFT's layer and torch's kernel are taken: a step of few tokens waits for Python there, of which these need more
(docs/adr/0030).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PLAIN_ATTENTION = "mainspring_plain"
"""Name under which `plain_attention` is known to transformers."""
_PLAIN_TOKENS = 1024
"""Longest row whose attention matrix is held in memory whole."""


class Adapted(Linear):
    """PEFT's linear layer with an adapter, as one operation in the base's precision.

    PEFT lifts every activation to the adapter's fp32 and back, which takes longer than the adapter's products. Here the
    small matrices come down instead; their gradients and their stored values stay in fp32.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base and adapter of `x`; with dropout, PEFT's own way."""
        (name,) = self.active_adapters
        if not isinstance(self.lora_dropout[name], torch.nn.Identity):
            return super().forward(x, *args, **kwargs)
        base: Any = self.base_layer
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        product: Any = _Product.apply(x, base.weight, base.bias, down, up, self.scaling[name])
        return product


class _Product(torch.autograd.Function):
    """`x W' + bias + scale x A' B'` with gradients for x, A and B; W and the bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down, up = down.to(x.dtype), up.to(x.dtype)
        narrow = rows @ down.t()
        wide = torch.nn.functional.linear(rows, weight, bias)
        wide.addmm_(narrow, up.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, narrow)
        ctx.scale, ctx.shape = scale, x.shape
        return wide.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, narrow = ctx.saved_tensors
        wide = gradients[0].reshape(-1, gradients[0].shape[-1])
        narrow_gradient = (wide @ up).mul_(ctx.scale)
        of_x = (wide @ weight).addmm_(narrow_gradient, down).view(ctx.shape) if ctx.needs_input_grad[0] else None
        of_down = (narrow_gradient.t() @ rows).float()
        of_up = (wide.t() @ narrow).float().mul_(ctx.scale)
        return of_x, None, None, of_down, of_up, None


def plain_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention with the whole matrix in memory.

    torch's kernel for processors never holds the matrix, which pays for long rows only: for rows of some hundred tokens
    this is three to five times as quick, forwards and backwards together. Whatever is not plain goes to torch's kernel.
    """
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    if attention_mask is not None or dropout or length > _PLAIN_TOKENS or key.shape[2] != length:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    # All heads of a group share its keys and values, so they are rows of one product.
    grouped = (query * (size**-0.5 if scaling is None else scaling)).reshape(batch, groups, -1, size)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, length, length)
    future = torch.full((length, length), -torch.inf, dtype=scores.dtype).triu(1)
    shares = (scores + future).softmax(-1).view(batch, groups, -1, length)
    return (shares @ value).view(batch, heads, length, -1).transpose(1, 2), None


AttentionInterface.register(PLAIN_ATTENTION, plain_attention)
AttentionMaskInterface.register(PLAIN_ATTENTION, sdpa_mask)
