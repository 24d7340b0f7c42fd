"""Closed-form FLOPs of the networks, for MFU and for comparing ways of training.

One multiply-add is 2 FLOPs. Counted: every matrix product on real positions. Not
counted: look-ups, norms, softmax, dropout, padding, the optimiser, rematerialisation;
the adapters of instructions, and retrieval.
A training step is three forward passes (one forward, two backward).
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from oxyrec_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of one forward pass, by part.

    Attributes:
      encoder: of the histories' positions.
      decoder: of the targets' positions, cross-attention included.
      head: of the code scores.
    """

    encoder: float
    decoder: float
    head: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.encoder + self.decoder + self.head


def forward_flops(cfg: ModelConfig, widths: Sequence[int], *, lengths: Sequence[int],
                  targets: Sequence[int], features: int = 0) -> ForwardFlops:
    """FLOPs of one forward pass over some histories.

    Args:
      cfg: the network.
      widths: codes on each level.
      lengths: real positions of each history.
      targets: supervised targets of each history: 1 for a bidirectional encoder,
        up to the length for a causal one.
      features: width of the side features, 0 without.

    Returns:
      FLOPs by part. Causal attention counts the scores at or before the query only,
      `L (L + 1) / 2`, and a target's cross-attention the positions it may see: with
      a causal encoder the last `targets` positions' prefixes.

    Source: standard matrix-product counting; conventions of section 2.2 of the
    project's performance notes (ours).
    """
    inner = cfg.heads * cfg.head_width
    width, mlp, depth = cfg.width, cfg.mlp_width, len(widths)
    encoder = decoder = head = 0.0
    per_position = 8 * width * inner + 6 * width * mlp
    decoder_position = 8 * width * inner + _decoder_mlp_flops(cfg)
    both_ways = cfg.decoding == "masked"
    positions = depth + cfg.instructions.prefix - (not both_ways)
    rows = sum(widths) * depth if cfg.head == "shared" else sum(widths)
    for length, count in zip(lengths, targets, strict=True):
        scores = length * (length + 1) / 2 if cfg.causal else length * length
        encoder += cfg.encoder_layers * (length * per_position + 4 * scores * inner)
        encoder += length * 2 * features * width
        seen = (sum(range(length - count + 1, length + 1)) if cfg.causal
                else count * length)
        own = positions**2 if both_ways else positions * (positions + 1) / 2
        decoder += cfg.decoder_layers * (
            count * positions * (decoder_position + 4 * width * inner)
            + length * 4 * width * inner + 4 * count * own * inner
            + 4 * positions * seen * inner)
        head += count * 2 * width * rows
    return ForwardFlops(encoder, decoder, head)


def batch_flops(cfg: ModelConfig, widths: Sequence[int],
                batch: Mapping[str, np.ndarray], *, features: int = 0) -> ForwardFlops:
    """FLOPs of one forward pass over the real positions of a training batch.

    Args:
      cfg, widths, features: as of `forward_flops`.
      batch: `segments` `[B, L]`, 0 on padding, one number for each history of a row;
        `target_mask` `[B, J]`; as `data.pipeline` makes them.

    Returns:
      FLOPs by part; a history's targets are taken for its last positions.
    """
    segments, mask = np.asarray(batch["segments"]), np.asarray(batch["target_mask"])
    owner = np.arange(len(segments))[:, None] * (int(segments.max()) + 1)
    lengths = np.bincount((owner + segments)[segments > 0])
    own = (segments if mask.shape == segments.shape
           else np.ones(mask.shape, segments.dtype))
    targets = np.bincount((owner + own)[mask], minlength=len(lengths))
    parts = np.zeros(3)
    pairs = zip(lengths.tolist(), targets.tolist(), strict=True)
    for (length, count), times in collections.Counter(pairs).items():
        if length:
            one = forward_flops(cfg, widths, lengths=[length], targets=[count],
                                features=features)
            parts += times * np.array(dataclasses.astuple(one))
    return ForwardFlops(*parts.tolist())


def _decoder_mlp_flops(cfg: ModelConfig) -> float:
    """Of one position in the decoder's feed-forward layer: the experts that it passes
    through and the router, not the experts that stand idle nor places left empty."""
    moe = cfg.moe
    if not moe.experts:
        return 6 * cfg.width * cfg.mlp_width
    hidden = moe.mlp_width or cfg.mlp_width
    return (6 * cfg.width * hidden * (moe.top_k + moe.shared)
            + 2 * cfg.width * moe.experts)


def ranking_flops(cfg: ModelConfig, *, history: int, shown: int) -> float:
    """FLOPs of one forward pass of the ranking model, for each item of a request.

    Args:
      cfg: the network.
      history: positions of the history, all taken as real.
      shown: items of a request; the three tokens of the request are left out.
    """
    inner, positions = cfg.heads * cfg.head_width, history + shown
    per_position = 8 * cfg.width * inner + 6 * cfg.width * cfg.mlp_width
    layer = positions * per_position + 4 * positions**2 * inner
    return cfg.encoder_layers * layer / shown
