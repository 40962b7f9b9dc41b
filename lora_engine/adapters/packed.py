"""The layers of a model that hold adapters: one layer computes with many, each on its own part of the batch.

With K active adapters, images [k*B, (k+1)*B) of the batch pass through adapter k. The frozen base sees one batch of
K*B. Adapters of lower ranks than others', or without weights in a layer, are filled up with zeros there, which compute
nothing and have gradients of zero.

Shape legend: K adapters, B images per adapter, N tokens or pixels, F features of a token, I and O features in and out,
R rank, of adapters that compute together the largest, h and w the size of a convolution's kernel, H and W of what it
sees.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import Conv2d as PeftConv2d
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from lora_engine.config.adapter import MOST_RANK

MAGNITUDE = "lora_magnitude_vector"  # DoRA's parameter of a layer, as PEFT names it


class PackedLayer:
    """What layers of either kind have in common.

    A layer computes with copies in the base's dtype, which `activate` or `PackWeights.select` put here, so that no
    forward pass casts or stacks anything. Without them it computes as the base.
    """

    down_KRI: Tensor | None = None  # [K, R, I, h, w] of a convolution
    up_KOR: Tensor | None = None  # [K, O, R, 1, 1] of a convolution
    magnitude_KO: Tensor | None = None  # of DoRA; None of plain LoRA
    _strength = 1.0  # see `compute_with`
    number = 0  # by which draws tell this layer from others
    dropout: tuple[Tensor, Tensor] | None = None  # see `lora.dropping`
    scale: Tensor | float = 1.0  # of the active adapters' updates, alpha / rank: [K, 1, 1] where they differ

    # PEFT's, by an adapter's name:
    lora_A: Any
    lora_B: Any
    lora_magnitude_vector: Any
    update_layer: Any
    scaling: dict[str, float]
    lora_alpha: dict[str, float]
    r: dict[str, int]
    use_rslora: dict[str, bool]

    @property
    def base(self) -> Any:
        """The frozen layer."""
        return self.get_base_layer()  # type: ignore[attr-defined]

    def clear(self) -> None:
        """Let the layer compute as the base."""
        self.down_KRI = self.up_KOR = self.magnitude_KO = None

    def ranks(self, names: Sequence[str]) -> list[int]:
        """The rank of each of these adapters here, 0 of one without weights in this layer."""
        return [len(self.lora_A[name].weight) if name in self.lora_A else 0 for name in names]

    def scales(self, names: Sequence[str]) -> list[float]:
        """The factor of each of these adapters' updates here, as `scale` takes them.

        An adapter without weights in this layer has that of another, since any factor of nothing will do.
        """
        known = [self.scaling[name] for name in names if name in self.lora_A]
        return [self.scaling[name] if name in self.lora_A else known[0] if known else 1.0 for name in names]

    def file_alpha(self, name: str) -> float:
        """The alpha by which readers of an adapter's files, who scale by alpha / rank, scale it here."""
        return self.lora_alpha[name] * (math.sqrt(self.r[name]) if self.use_rslora[name] else 1)

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of an adapter here, live, by their names in the layer; of plain LoRA down, then up."""
        if name not in self.lora_A:
            return {}
        found = {"lora_A.weight": self.lora_A[name].weight, "lora_B.weight": self.lora_B[name].weight}
        if name in self.lora_magnitude_vector:
            found[MAGNITUDE] = self.lora_magnitude_vector[name].weight
        return found

    def shapes(self, names: Sequence[str]) -> dict[str, torch.Size]:
        """The shapes of the weights of these adapters as they are filled up, as `weights` names them; or none."""
        rank, weight = max(self.ranks(names), default=0), self.base.weight
        if not rank:
            return {}
        ones = (1,) * (weight.dim() - 2)
        found = {
            "lora_A.weight": torch.Size((rank, *weight.shape[1:])),
            "lora_B.weight": torch.Size((len(weight), rank, *ones)),
        }
        if any(name in self.lora_magnitude_vector for name in names):
            found[MAGNITUDE] = weight.shape[:1]
        return found

    def compute_with(
        self, down_KRI: Tensor, up_KOR: Tensor, magnitude_KO: Tensor | None = None, strength: float = 1.0
    ) -> None:
        """Let the layer compute with these weights; of DoRA, with so much of what they change in the output."""
        self.down_KRI, self.up_KOR, self.magnitude_KO, self._strength = down_KRI, up_KOR, magnitude_KO, strength

    def _kept(self, positions: int, rank: int) -> Tensor | None:
        """What dropout multiplies hidden values by, see `_kept`; None without dropout. [K, B*N, R].

        Args:
            positions: B*N of all adapters, tokens or pixels.
        """
        if self.dropout is None:
            return None
        return _kept(self.number, *self.dropout, positions // self.dropout[0].numel(), rank)

    def _redirected(self, plain: Tensor, update: Tensor, magnitude_KO: Tensor) -> Tensor:
        """DoRA's output without the bias: m (W + U) x / |W + U|, by rows of the weights W and their update U.

        The norm passes no gradient on, as the paper has it (Liu et al., arXiv 2402.09353, section 4.3). Of a strength
        other than 1, ComfyUI's rule holds: so much of the difference to the base.

        Args:
            plain: W x, [K*B, ..., O], or [K*B, O, H, W] of a convolution.
            update: U x, of the same shape.
        """
        assert self.down_KRI is not None
        assert self.up_KOR is not None
        with torch.no_grad():
            update_KOI = torch.bmm(self.up_KOR.flatten(2), self.down_KRI.flatten(2))
            norms_KO = (self.base.weight.flatten(1).to(update_KOI.dtype) + self.scale * update_KOI).norm(dim=2)
        sizes_KO = (magnitude_KO / norms_KO).to(plain.dtype)
        sizes = sizes_KO.repeat_interleave(len(plain) // len(sizes_KO), dim=0)
        ones = (1,) * (plain.dim() - 2)
        sizes = sizes.view(len(plain), *((-1, *ones) if isinstance(self.base, nn.Conv2d) else (*ones, -1)))
        out: Tensor = sizes * (plain + update)
        return out if self._strength == 1 else plain + self._strength * (out - plain)


class PackedLinear(PackedLayer, PeftLinear):  # type: ignore[misc]
    """A linear layer with K active adapters."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base's output plus, for the images of each adapter, that adapter's. [K*B, N, I] -> [K*B, N, O]."""
        if self.disable_adapters or self.down_KRI is None or self.up_KOR is None:
            return self.base_layer(x, *args, **kwargs)  # type: ignore[no-any-return]
        kept = self._kept(x[..., 0].numel(), self.down_KRI.shape[1])
        scale = self.scale if kept is None else self.scale * kept.to(x.dtype)
        base, down_KRI, up_KOR = self.base, self.down_KRI, self.up_KOR
        if self.magnitude_KO is None:
            return _PackedLinear.apply(x, base.weight, base.bias, down_KRI, up_KOR, scale)  # type: ignore[no-any-return, no-untyped-call]
        hidden = torch.bmm(_tokens_of(down_KRI, x), down_KRI.to(x.dtype).transpose(1, 2)) * scale
        update = torch.bmm(hidden, up_KOR.to(x.dtype).transpose(1, 2))
        plain = torch.nn.functional.linear(x, base.weight)
        out = self._redirected(plain, update.view_as(plain), self.magnitude_KO)
        return out if base.bias is None else out + base.bias


class PackedConv2d(PackedLayer, PeftConv2d):  # type: ignore[misc]
    """A convolution with K active adapters: down with the base's kernel, up of one pixel."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base's output plus, for the images of each adapter, that adapter's. [K*B, I, H, W] -> [K*B, O, H, W]."""
        if self.disable_adapters or self.down_KRI is None or self.up_KOR is None:
            return self.base_layer(x, *args, **kwargs)  # type: ignore[no-any-return]
        base, down_KRI, up_KOR = self.base, self.down_KRI.to(x.dtype), self.up_KOR.to(x.dtype)
        hidden = self._scaled(_convolved(x, down_KRI, base))
        if self.magnitude_KO is None:
            return _plus_up(base(x), hidden, up_KOR)
        plain = torch.nn.functional.conv2d(x, base.weight, None, base.stride, base.padding, base.dilation)
        update = _plus_up(torch.zeros_like(plain), hidden, up_KOR)
        out = self._redirected(plain, update, self.magnitude_KO)
        return out if base.bias is None else out + base.bias.view(-1, 1, 1)

    def _scaled(self, hidden: Tensor) -> Tensor:
        """Hidden values times the adapters' scales and what dropout leaves of them. [K*B, R, H, W]."""
        count, rank, pixels = len(self.down_KRI), hidden.shape[1], hidden[0, 0].numel()  # type: ignore[arg-type]
        scale = self.scale.unsqueeze(3).to(hidden.dtype) if isinstance(self.scale, Tensor) else self.scale
        if (kept := self._kept(hidden[:, 0].numel(), rank)) is not None:
            scale = scale * kept.view(count, -1, pixels, rank).transpose(2, 3).to(hidden.dtype)
        return (hidden.view(count, -1, rank, pixels) * scale).view_as(hidden)


def _convolved(x: Tensor, down_KRI: Tensor, base: nn.Conv2d) -> Tensor:
    """The hidden values of each adapter's images. [K*B, I, H, W] -> [K*B, R, H, W], of other H and W by strides."""
    count, rank = down_KRI.shape[:2]
    conv = torch.nn.functional.conv2d
    if count == 1:
        return conv(x, down_KRI[0], None, base.stride, base.padding, base.dilation)
    # One convolution whose groups are the adapters: images of all adapters with the same place stand side by side.
    beside = x.view(count, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)
    hidden = conv(beside, down_KRI.flatten(0, 1), None, base.stride, base.padding, base.dilation, groups=count)
    return hidden.view(len(beside), count, rank, *hidden.shape[2:]).transpose(0, 1).flatten(0, 1)


def _plus_up(out: Tensor, hidden: Tensor, up_KOR: Tensor) -> Tensor:
    """What the up weights make of hidden values, [K*B, R, H, W], added to `out`, [K*B, O, H, W]."""
    up = up_KOR.flatten(2).repeat_interleave(len(hidden) // len(up_KOR), dim=0)
    return out.flatten(2).baddbmm(up, hidden.flatten(2)).view_as(out)


class _PackedLinear(torch.autograd.Function):
    """A frozen linear layer plus its adapters, forward and backward in as few kernels as there are products.

    Left to autograd, an adapter's output and its input's gradient would be tensors of their own that have to be added
    to the base's: on a GPU that takes as long as the products themselves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down_KRI: Tensor,
        up_KOR: Tensor,
        scale: Tensor | float,
    ) -> Tensor:
        """[K*B, N, I] -> [K*B, N, O]; N may be any number of dimensions, or none."""
        out = torch.nn.functional.linear(x, weight, bias)
        hidden = torch.bmm(_tokens_of(down_KRI, x), down_KRI.transpose(1, 2))
        if isinstance(scale, Tensor):
            hidden *= scale
        out.view(*hidden.shape[:2], -1).baddbmm_(
            hidden, up_KOR.transpose(1, 2), alpha=1.0 if isinstance(scale, Tensor) else scale
        )
        ctx.save_for_backward(x, weight, down_KRI, up_KOR, hidden)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the input and of the adapters; the base is frozen. [K*B, N, O] -> [K*B, N, I] and so on."""
        x, weight, down_KRI, up_KOR, hidden = ctx.saved_tensors
        grad_tokens = _tokens_of(up_KOR, grads[0])
        grad_hidden = torch.bmm(grad_tokens, up_KOR)
        grad_up = torch.bmm(grad_tokens.transpose(1, 2), hidden)
        if isinstance(ctx.scale, Tensor):  # which `hidden` was multiplied by
            grad_hidden *= ctx.scale
        elif ctx.scale != 1:
            grad_hidden, grad_up = grad_hidden * ctx.scale, grad_up * ctx.scale
        grad_down = torch.bmm(grad_hidden.transpose(1, 2), _tokens_of(down_KRI, x))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.matmul(grads[0], weight)
            grad_x.view(*grad_hidden.shape[:2], -1).baddbmm_(grad_hidden, down_KRI)
        return grad_x, None, None, grad_down, grad_up, None


def _kept(number: int, keys_KB: Tensor, shares_K: Tensor, tokens: int, rank: int) -> Tensor:
    """What dropout multiplies the hidden values of a layer by: 0, or 1 / (1 - share). [K, B*N, R].

    Each is a hash of the layer, the image's key and the value's place, so it depends on nothing that was drawn before,
    nor on the device, nor on how an update is cut up or filled up. The hash is lowbias32 (Wellons, "Prospecting for
    Hash Functions", 2018).
    """
    places = torch.arange(tokens, device=keys_KB.device).unsqueeze(1) * MOST_RANK
    places = (places + torch.arange(rank, device=keys_KB.device)).flatten()
    hashes = _mixed(_mixed(keys_KB ^ number).unsqueeze(2) ^ places)
    share_K11 = shares_K.view(-1, 1, 1)
    kept = (hashes >= share_K11.double() * 2**32) / (1 - share_K11)
    return kept.view(len(shares_K), -1, rank)


def _mixed(values: Tensor) -> Tensor:
    """lowbias32 of numbers of 32 bits, int64."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        values = ((values ^ (values >> shift)) * factor) & 0xFFFFFFFF
    return values ^ (values >> 16)


def _tokens_of(adapters: Tensor, values: Tensor) -> Tensor:
    """The tokens of each adapter's images: [K*B, N, F] -> [K, B*N, F], where `adapters` leads with K."""
    return values.reshape(len(adapters), -1, values.shape[-1])
