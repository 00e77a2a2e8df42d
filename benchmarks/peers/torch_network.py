"""The published network in torch.nn, for `benchmarks/training.py`; the only torch network here.

Modules bear the names of the authors' state dict, so that weights pass from ours to it. Written for
speed: the attention is torch's own fused one, DropKey its mask, the optimiser fused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd2d_jax.networks.paper_inputs import CLOUD_END, END, PADDING, position_code

_HIDDEN = -1e9


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            f(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        if self.training:
            dropped = torch.rand(batch, self.heads, length, length) < self.dropout
            mask = mask.masked_fill(dropped, _HIDDEN)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x.transpose(1, 2).reshape(batch, length, width)
        return F.dropout(self.proj(x), self.dropout, self.training)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = _Attention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + self.attn1(self.ln1(x), mask) + self.mlp(self.ln2(x))


class _Encoder(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Linear(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(1, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x)


class _Points(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        part = width // 3
        self.fc1, self.fc2 = nn.Linear(1, part), nn.Linear(1, part)
        self.fc3 = nn.Linear(1, width - 2 * part)

    def forward(self, cloud: Tensor) -> Tensor:
        x, y, level = cloud.split(1, -1)
        return torch.cat([self.fc1(x), self.fc2(y), self.fc3(level)], -1)


class _Project(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(F.gelu(self.fc1(x))))


class Network(nn.Module):
    """Both towers of the published network."""

    def __init__(
        self, width: int = 384, layers: int = 4, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
        self.tok_emb, self.pattern_emb = _Linear(width), _Points(width)
        sizes = width, layers, heads, dropout
        self.Trans_crystal_encoder, self.Trans_pattern_encoder = _Encoder(*sizes), _Encoder(*sizes)
        self.ln_f, self.ln_p = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc_project_crystal, self.fc_project_pattern = (
            _Project(width, dropout) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)
        code = torch.from_numpy(position_code(180, width))
        self.register_buffer("code", code, persistent=False)

    def crystals(self, sequence: Tensor) -> Tensor:
        """(B, T) as from `paper_inputs.sequences` -> unit vectors (B, width)."""
        # Padding may look at what it likes: only the class tokens are used.
        seen = (sequence != PADDING)[:, None, None].repeat(1, 1, sequence.shape[1], 1)
        seen[:, :, 0, 7:] = False
        x = self.dropout(self.tok_emb(sequence[..., None]) + self.code[: sequence.shape[1]])
        x = self.ln_f(self.Trans_crystal_encoder(x, _mask(seen)))
        end = (sequence == END).int().argmax(1)
        x = x[torch.arange(len(x)), end] + x[:, 0]
        return F.normalize(self.fc_project_crystal(x), dim=-1)

    def patterns(self, cloud: Tensor) -> Tensor:
        """(B, K, 3) as from `paper_inputs.point_cloud` -> unit vectors (B, width)."""
        seen = (cloud != 0).any(-1)[:, None, None].repeat(1, 1, cloud.shape[1], 1)
        x = self.ln_p(self.Trans_pattern_encoder(self.pattern_emb(cloud), _mask(seen)))
        end = (cloud[..., 2] == CLOUD_END).int().argmax(1)
        return F.normalize(self.fc_project_pattern(x[torch.arange(len(x)), end]), dim=-1)


def _mask(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill_(~seen, _HIDDEN)


def make_functions(
    state: dict[str, np.ndarray], sizes: dict, train: dict, threads: int
) -> tuple[Callable, Callable]:
    """`forward(sequence, cloud)` and `step(sequence, cloud) -> loss`, of tensors.

    Args:
        state: the weights to begin with, under the authors' names.
        sizes: `width`, `layers`, `heads` and `dropout`.
        train: `learning_rate`, `b2`, `weight_decay` and `clip`.
        threads: that torch uses.
    """
    torch.set_num_threads(threads)
    network = Network(**sizes)
    network.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        groups,
        lr=train["learning_rate"],
        betas=(0.9, train["b2"]),
        weight_decay=train["weight_decay"],
        fused=True,
    )

    @torch.inference_mode()
    def forward(sequence: Tensor, cloud: Tensor) -> tuple[np.ndarray, np.ndarray]:
        network.eval()
        return network.crystals(sequence).numpy(), network.patterns(cloud).numpy()

    def step(sequence: Tensor, cloud: Tensor) -> float:
        network.train()
        optimiser.zero_grad(set_to_none=True)
        logits = network.logit_scale.exp() * network.crystals(sequence) @ network.patterns(cloud).T
        labels = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), train["clip"])
        optimiser.step()
        return loss.item()

    return forward, step
