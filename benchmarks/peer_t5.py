"""The peer of the benchmarks: a T5 of Hugging Face `transformers`.

An item is as many tokens as it has codes, in the input and in the output. A training
step takes one target for each row, its history padded to the longest of the batch. The
beam search is `generate` with `prefix_allowed_tokens_fn` over a dictionary of prefixes.
Most public re-implementations of TIGER (Rajput et al. 2023,
https://arxiv.org/abs/2305.05065) train and decode in these ways. Needs the extra
"bench".
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

PAD, END, FIRST_CODE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Size:
    """What both networks have in common."""

    width: int
    heads: int
    head_width: int
    mlp_width: int
    layers: int


def _network(widths: Sequence[int], size: Size, *, threads: int, seed: int,
             dropout: float = 0.0):
    """A randomly initialised network, the first token of each level, the versions."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=FIRST_CODE + sum(widths), d_model=size.width,
        d_kv=size.head_width, num_heads=size.heads, d_ff=size.mlp_width,
        num_layers=size.layers, num_decoder_layers=size.layers, dropout_rate=dropout,
        pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD))
    starts = FIRST_CODE + np.concatenate([[0], np.cumsum(widths)[:-1]])
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return torch, model, starts, versions


class TrainableT5:
    """A randomly initialised T5 and its AdamW step."""

    def __init__(self, codes: np.ndarray, widths: Sequence[int], size: Size, *,
                 threads: int, dropout: float, seed: int = 0):
        """Builds the network and the optimiser.

        Args:
          codes: `[N, T]` integers, the semantic ID of each item.
          widths: codes of each level; every level has its own tokens.
          size: the network.
          threads: of PyTorch.
          dropout: rate, wherever T5 drops.
          seed: of the weights and of the dropout.
        """
        self._torch, self._model, starts, self.versions = _network(
            widths, size, threads=threads, seed=seed, dropout=dropout)
        self._tokens = codes.astype(np.int64) + starts
        self._model.train()
        self._optimizer = self._torch.optim.AdamW(
            self._model.parameters(), lr=1e-3, weight_decay=0.05)
        self.parameters = sum(p.numel() for p in self._model.parameters())

    def step(self, items: np.ndarray, lengths: np.ndarray, targets: np.ndarray
             ) -> float:
        """Trains on a batch of one target for each row.

        Args:
          items: `[B, L]` item ids, each history from the left, oldest first.
          lengths: `[B]` items of each history, at least 1.
          targets: `[B]` item ids.

        Returns:
          The loss, nats per token.
        """
        longest = int(lengths.max())
        real = np.repeat(np.arange(longest) < lengths[:, None],
                         self._tokens.shape[1], axis=1)
        tokens = self._tokens[items[:, :longest]].reshape(len(items), -1)
        tensor = self._torch.from_numpy
        loss = self._model(
            input_ids=tensor(np.where(real, tokens, PAD)),
            attention_mask=tensor(real.astype(np.int64)),
            labels=tensor(self._tokens[targets])).loss
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())


class ConstrainedT5:
    """A randomly initialised T5 that may answer with the catalogue's items only."""

    def __init__(self, codes: np.ndarray, widths: Sequence[int], size: Size, *,
                 threads: int, seed: int = 0):
        """Builds the network and the dictionary of prefixes.

        Args:
          codes: `[N, T]` integers, the semantic ID of each item.
          widths: codes of each level; every level has its own tokens.
          size: the network.
          threads: of PyTorch.
          seed: of the weights.
        """
        torch, model, starts, self.versions = _network(widths, size, threads=threads,
                                                       seed=seed)
        self._starts, self._tokens = starts, codes + starts
        self._torch, self._model, self.depth = torch, model.eval(), codes.shape[1]
        with torch.no_grad():  # logits with some spread, as a trained network has
            self._model.get_input_embeddings().weight.normal_(0, 1)
        # Every answer has exactly T tokens, so no token may end it.
        self._model.config.eos_token_id = None
        self._model.generation_config.eos_token_id = None
        self._followers: dict[tuple[int, ...], list[int]] = {}
        for row in np.unique(self._tokens, axis=0).tolist():
            for length in range(self.depth):
                allowed = self._followers.setdefault(tuple(row[:length]), [])
                if not allowed or allowed[-1] != row[length]:  # rows are sorted
                    allowed.append(row[length])

    def recommend(self, items: np.ndarray, beams: int) -> np.ndarray:
        """Answers a batch of requests.

        Args:
          items: `[B, L]` item ids, the history; the encoder reads L * T tokens.
          beams: K.

        Returns:
          `[B, K, T]` codes, best first.
        """
        tokens = self._torch.from_numpy(self._tokens[items].reshape(len(items), -1))
        with self._torch.inference_mode():
            found = self._model.generate(
                input_ids=tokens, attention_mask=self._torch.ones_like(tokens),
                num_beams=beams, num_return_sequences=beams, do_sample=False,
                max_new_tokens=self.depth, length_penalty=0.0, early_stopping=False,
                prefix_allowed_tokens_fn=self._allowed)
        codes = found[:, 1:].numpy() - self._starts
        return codes.reshape(len(items), beams, self.depth)

    def _allowed(self, _request: int, sentence) -> list[int]:
        # A dead beam of `generate` has an unknown prefix; it may go on as it likes.
        followers = self._followers.get(tuple(sentence.tolist()[1:]))
        return self._followers[()] if followers is None else followers
