"""Compact transformers CCT and CVT (Hassani, Walton, Shah, Abuduweili, Li, Shi; "Escaping the Big Data
Paradigm with Compact Transformers", arXiv 2021)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.families import Architecture
from trainers.spec import InputError

PATCH = 4
ATTENTION_DROPOUT = 0.1
STOCHASTIC_DEPTH = 0.1  # of the last layer; it grows linearly from 0 in the first


class CompactTransformer(Architecture):
    """A tokenizer, encoder layers, and a pooling over the sequence in place of a class token."""

    layers: ClassVar[int] = 7
    dim: ClassVar[int] = 256
    heads: ClassVar[int] = 4
    mlp_ratio: ClassVar[int] = 2
    convs: ClassVar[int] = 1  # of the tokenizer; 0 for one that cuts patches
    positions: Literal["learnable", "sine"] = "learnable"
    """Positional embedding: learnt, or fixed sines and cosines."""

    def recipe(self) -> dict[str, Any]:
        return {
            "optimizer": {"kind": "adamw", "lr": 5e-4, "weight_decay": 3e-2},
            "schedule": {"kind": "cosine", "floor": 0.02},
        }

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        encoder = [
            EncoderLayer(
                self.dim, self.heads, self.mlp_ratio, drop=STOCHASTIC_DEPTH * layer / (self.layers - 1)
            )
            for layer in range(self.layers)
        ]
        tail = [nn.LayerNorm(self.dim), SequencePool(self.dim), nn.Linear(self.dim, num_classes)]
        net = nn.Sequential(self._tokens(shape), *encoder, *tail)
        return net.apply(_draw)

    def _tokens(self, shape: tuple[int, int, int]) -> Tokens:
        if not self.convs and min(shape[1:]) < PATCH:
            raise InputError(
                f"{self.kind} needs images of at least {PATCH}x{PATCH} pixels, found {shape[1]}x{shape[2]}"
            )
        cut = convolutions(shape[0], self.dim, self.convs) if self.convs else patches(shape[0], self.dim)
        with torch.no_grad():
            count = cut(torch.zeros(1, *shape)).flatten(2).shape[2]
        if self.positions == "sine":
            return Tokens(cut, nn.Buffer(sines(count, self.dim)))
        return Tokens(cut, nn.Parameter(nn.init.trunc_normal_(torch.empty(count, self.dim), std=0.2)))


class CCT2(CompactTransformer, kind="cct_2_3x2"):
    """Two narrow layers on two 3x3 convolutions; 283,723 parameters for 10 classes."""

    layers, dim, heads, mlp_ratio, convs = 2, 128, 2, 1, 2


class CCT4(CompactTransformer, kind="cct_4_3x2"):
    """Four narrow layers on two 3x3 convolutions; 482,123 parameters for 10 classes."""

    layers, dim, heads, mlp_ratio, convs = 4, 128, 2, 1, 2


class CCT6(CompactTransformer, kind="cct_6_3x1"):
    """Six layers on one 3x3 convolution; 3,233,803 parameters for 10 classes."""

    layers = 6


class CCT7(CompactTransformer, kind="cct_7_3x1"):
    """Seven layers on one 3x3 convolution; 3,760,139 parameters for 10 classes."""


class CCT7TwoConvs(CompactTransformer, kind="cct_7_3x2"):
    """Seven layers on two 3x3 convolutions; 3,853,259 parameters for 10 classes."""

    convs = 2


class CVT7(CompactTransformer, kind="cvt_7_4"):
    """Seven layers on 4x4 patches; 3,716,619 parameters for 10 classes."""

    convs = 0


def convolutions(channels: int, dim: int, count: int) -> nn.Sequential:
    """3x3 convolutions, 64 channels between them, each with ReLU and a pooling that halves the size."""
    layers: list[nn.Module] = []
    for before, after in zip([channels, *[64] * (count - 1)], [*[64] * (count - 1), dim], strict=True):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


def patches(channels: int, dim: int) -> nn.Sequential:
    """One linear map of each patch; rows and columns that fill no patch are left out."""
    return nn.Sequential(nn.Conv2d(channels, dim, PATCH, stride=PATCH))


def sines(count: int, dim: int) -> Tensor:
    """Positions T,D as sines (even channels) and cosines (odd ones) of falling frequency."""
    channel = torch.arange(dim)
    angle = torch.arange(count)[:, None] / 10_000 ** (2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class Tokens(nn.Module):
    """Images N,C,H,W to tokens N,T,D with position embeddings."""

    def __init__(self, cut: nn.Module, positions: Tensor) -> None:
        super().__init__()
        self.cut, self.positions = cut, positions

    def forward(self, x: Tensor) -> Tensor:
        return self.cut(x).flatten(2).transpose(1, 2) + self.positions


class EncoderLayer(nn.Module):
    """Attention and a two-layer perceptron. The second norm is written back to the stream, so this is
    neither the pre-norm nor the post-norm layer."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, *, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        drop = self.drop if self.training else 0.0
        x = self.norm2(x + stochastic_depth(self.attention(self.norm1(x)), drop))
        return x + stochastic_depth(self.mlp(x), drop)


class Attention(nn.Module):
    """Multi-head self-attention whose queries, keys and values have no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = ATTENTION_DROPOUT if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out(heads.transpose(1, 2).flatten(2))


class SequencePool(nn.Module):
    """A learnt weighted mean of the tokens: N,T,D to N,D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.score(x).softmax(1) * x).sum(1)


def stochastic_depth(branch: Tensor, drop: float) -> Tensor:
    """Zero the whole branch N,T,D of each image with probability `drop`, and scale up the others (Huang et
    al., ECCV 2016)."""
    if not drop:
        return branch
    kept = torch.empty(len(branch), 1, 1, device=branch.device).bernoulli_(1 - drop)
    return branch * (kept / (1 - drop)).to(branch.dtype)


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
