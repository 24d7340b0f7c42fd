"""The generator: a history in, the codes of the next item out.

An encoder reads one position for each history item. A decoder reads `[BOS, s_1 ..
s_{T-1}]` of each target, looks at the encoder through cross-attention, and scores the
next code. With a causal encoder every position of a row is a target's context, so a
whole user costs one forward pass; with a bidirectional one a row serves one target.
Training, rollouts and serving run the same decoder layers: targets of a row and beams
of a request are the same axis Q.

Source: OxygenREC, arXiv 2512.22386 (pre-RMSNorm, bias-free, SwiGLU, relative positions,
instructions at BOS); one position an item and supervision of all positions are ours.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from oxyrec_jax import parallel
from oxyrec_jax.base import Array
from oxyrec_jax.models import layers, masked, sides
from oxyrec_jax.models import memory as memory_lib
from oxyrec_jax.models.attention import position_bias
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.instructions import Instructions, place
from oxyrec_jax.models.own_items import OwnItems
from oxyrec_jax.models.retrieval import Retriever, choose_events
from oxyrec_jax.models.stack import run_layers
from oxyrec_jax.models.tables import ItemTables, Mixture, Search, own_vectors
from oxyrec_jax.models.transformer import (DecoderLayer, EncoderLayer,
                                           rematerialised, visible)

__all__ = ["Generator", "ItemTables", "Mixture", "ModelConfig", "Search"]


class Generator(nn.Module):
    """Encoder-decoder over semantic IDs; see the module's docstring.

    Attributes:
      cfg: the network.
      widths: codes on each level, T numbers.
      items: N, rows of the item tables.
      profile: rows of the table of profiles.
      mesh: devices over which training cuts experts, or None.
    """

    cfg: ModelConfig
    widths: tuple[int, ...]
    items: int
    profile: int = 0
    mesh: Mesh | None = None

    def setup(self) -> None:
        cfg = self.cfg
        self.code_vectors = self._vectors("code_vectors", sum(self.widths), "codes")
        self.begin = self._vectors("begin", 1, "one")
        if cfg.decoding != "sequential":
            places = len(self.widths) - (cfg.decoding == "parallel")
            self.places = self._vectors("places", places, "one")
        if cfg.item_embedding:
            self.item_vectors = self._vectors("item_vectors", self.items, "items", 0.1)
        self.feature_in = layers.Linear(cfg.width, ("features", "embed"))
        if cfg.beside:
            self.side_in = sides.SideVectors(cfg.sides, cfg.width, self.profile)
        if cfg.instructions.placement != "none":
            self.instructions = Instructions(cfg.instructions, cfg.width)
        if cfg.retrieval.events:
            self.retriever = Retriever(cfg.retrieval)
            self.retrieved = self._vectors("retrieved", 1, "one")
        self.bias = position_bias(cfg)
        encoder = rematerialised(EncoderLayer, cfg, train=4)
        decoder = rematerialised(DecoderLayer, cfg, train=5)
        self.encoder = [encoder(cfg) for _ in range(cfg.encoder_layers)]
        self.encoder_norm = layers.RMSNorm()
        self.decoder = [decoder(cfg, self.mesh) for _ in range(cfg.decoder_layers)]
        self.decoder_norm = layers.RMSNorm()
        if cfg.memory:
            self.memory = memory_lib.TransitionMemory(near=cfg.nearest > 0)
        self.own_items = OwnItems(cfg.own)
        if cfg.experts > 1:
            self.gate = layers.Linear(cfg.experts, ("embed", "one"), scale=0.01)
            zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
            self.gate_bias = self.param("gate_bias", layers.axes(zeros, "one"),
                                        (cfg.experts,), jnp.float32)
            self.sharpness = self.param("sharpness", layers.axes(ones, "one"), (2,),
                                        jnp.float32)
            self.gate_heard = layers.Linear(cfg.experts, ("one", "one"), scale=0.01)
            if cfg.instructions.placement != "none":
                self.gate_asked = layers.Linear(cfg.experts, ("embed", "one"), 0.01)
        if not cfg.tied:
            self.head_vectors = self._vectors("head_vectors", sum(self.widths), "codes")

    def _vectors(self, name: str, rows: int, axis: str, scale: float = 1.0) -> Array:
        """A parameter: vectors `[rows, D]` of a length of about `scale`."""
        init = nn.initializers.normal(scale * self.cfg.width**-0.5)
        return self.param(name, layers.axes(init, axis, "embed"),
                          (rows, self.cfg.width), jnp.float32)

    @property
    def starts(self) -> tuple[int, ...]:
        """Row of `code_vectors` at which each level begins."""
        return tuple(sum(self.widths[:level]) for level in range(len(self.widths)))

    @property
    def passes(self) -> tuple[int, ...]:
        """Level at which each of the decoder's passes begins in a search."""
        passes = 1 if self.cfg.decoding == "parallel" else self.cfg.passes
        return masked.first_levels(passes, len(self.widths))

    def __call__(self, batch: dict[str, Array], tables: ItemTables, *,
                 train: bool = False) -> tuple[tuple[Array, ...], Array]:
        """Scores the codes of every target given their true prefixes.

        Args:
          batch: `items`, `segments` `[B, L]`, `targets`, `target_positions` `[B, J]`,
            int32, and what else `reads` names, as `data.pipeline` makes them; for a
            masked decoder `hidden` `[B, J, T]` bool, without which all codes are.
          tables: what is known of every item.
          train: dropout on; needs the "dropout" stream.

        Returns:
          `code_logits` and the encoder's state before each target, `[B, J, D]`.
        """
        states, state = self.code_states(batch, tables, train=train)
        logits = self.code_logits(states)
        if self.cfg.experts > 1 and self.is_initializing():
            self.mixture(batch, state, tables, logits[0], own=True)
        if self.cfg.retrieval.events and self.is_initializing():
            self.query_and_target(batch, tables)
        return logits, state

    def code_states(self, batch: dict[str, Array], tables: ItemTables, *,
                    train: bool = False) -> tuple[Array, Array]:
        """What the codes are scored by, `[B, J, T, D]`, and the encoder's state."""
        batch, memory, state, allowed = self._read(batch, tables, train)
        codes = tables.codes[batch["targets"]]
        x = self._decoder_input(self._prefix(batch, state, tables), state, codes,
                                batch.get("hidden", jnp.ones(codes.shape, bool)))
        x = parallel.lay_rows(layers.dropout(self, x, self.cfg.dropout, train=train))
        x = run_layers(self, self.decoder, lambda layer, x: layer(
            x, layer.project(memory), allowed, None, train,
            real=batch.get("target_mask"))[0], x, scan=self.cfg.scan and train)
        return self.decoder_norm(x)[:, :, -len(self.widths):], state

    def code_logits(self, states: Array) -> tuple[Array, ...]:
        """Logits `[..., V_l]` float32 of every level, from `code_states`."""
        return tuple(self._score(states[..., level, :], level,
                                 whole=self.cfg.head == "shared")
                     for level in range(len(self.widths)))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the events that a batch must have for this network."""
        asked = (name.removeprefix("target_") for name in self.cfg.instructions.reads)
        return tuple(dict.fromkeys((*self.cfg.beside, *self.cfg.opens, *asked)))

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of a batch that the network reads, apart from its targets."""
        long = ("long_items",) if self.cfg.retrieval.events else ()
        return ("items", "segments", "target_positions", *long,
                *self.cfg.beside, *self.cfg.opens, *self.cfg.instructions.reads)

    def encode(self, batch: dict[str, Array], tables: ItemTables, *,
               train: bool = False) -> Array:
        """Encodes histories.

        Args:
          batch: `items` `[B, L]` int32; `segments` `[B, L]` int32, 0 on padding, one
            number for each packed history; the columns of `cfg.beside` `[B, L]`.
          tables: what is known of every item.
          train: dropout on.

        Returns:
          `[B, L, D]` in the configured dtype.
        """
        cfg, items, segments = self.cfg, batch["items"], batch["segments"]
        x = self.item_inputs(items, tables)
        if cfg.beside:
            x = x + self.side_in(batch, train=train)
        if cfg.retrieval.events:
            first = jnp.arange(items.shape[1]) < cfg.retrieval.keep
            x = x + jnp.where(first[:, None], self.retrieved, 0)
        x = x.astype(cfg.dtype)
        x = parallel.lay_rows(layers.dropout(self, x, cfg.dropout, train=train))
        allowed = (segments[:, :, None] == segments[:, None, :])[:, None]
        length = items.shape[1]
        if cfg.causal:
            allowed = allowed & jnp.tril(jnp.ones((length, length), bool))
        bias = self.bias(length, length) if self.bias else jnp.float32(0)
        x = run_layers(self, self.encoder, lambda layer, x: layer(
            x, bias, allowed, train), x, scan=cfg.scan and train)
        return self.encoder_norm(x)

    def item_inputs(self, items: Array, tables: ItemTables) -> Array:
        """One vector for each item: its codes', features' and own vectors, summed."""
        x = layers.sum_rows(self.code_vectors, tables.codes[items], self.starts)
        if self.cfg.item_embedding:
            x = x + own_vectors(self.item_vectors, items, tables.held)
        if tables.features is not None:
            x = x + self.feature_in(tables.features[items])
        return x

    def item_scores(self, state: Array, tables: ItemTables,
                    items: Array | None = None) -> Array:
        """Scores of items: the state times each item's input vector.

        Args:
          state: `[B, J, D]`, the encoder before each target.
          tables: what is known of every item.
          items: `[M]` int32, which to score; None scores all N.

        Returns:
          `[B, J, M]` float32 logits.
        """
        if items is None:
            items = jnp.arange(tables.codes.shape[0])
        return layers.products(state, self.item_inputs(items, tables))

    def own_scores(self, state: Array, targets: Array, tables: ItemTables) -> Array:
        """`[B, J]` float32: as `item_scores`, of each target `[B, J]` alone."""
        vectors = self.item_inputs(targets, tables).astype(state.dtype)
        wide = state.astype(jnp.float32)  # as the products of `item_scores` add up
        return jnp.sum(wide * vectors.astype(jnp.float32), axis=-1)

    def mixture(self, batch: dict[str, Array], state: Array, tables: ItemTables,
                first_log_probs: Array, *, own: bool) -> Mixture:
        """How much each expert is trusted, and what memory and own items say.

        Args:
          batch: what `reads` names, and `targets` `[B, J]` where `own`.
          state: `[B, J, D]`, the encoder before each target.
          tables: with successors where there is a memory.
          first_log_probs: `[B, J, V_0]` float32, the decoder's of the first code.
          own: leave each target's own transition out of the memory, as in training.
        """
        gate = self.gate(state).astype(jnp.float32) + self.gate_bias
        if self.cfg.instructions.placement != "none":  # only the decoder reads them
            asked = jnp.sum(self._instruction_tokens(batch, tables), axis=2)
            gate = gate + self.gate_asked(jax.lax.stop_gradient(asked))
        pointers: tuple[memory_lib.Pointer, ...] = ()
        if self.cfg.memory:
            pointers = (self.memory(
                memory_lib.recent_items(batch), tables.successors, tables.codes[:, 0],
                first_log_probs, batch["targets"] if own else None, tables.nearest,
                None if self.cfg.repeats else memory_lib.earlier_items(batch)),)
            gate = gate + self.gate_heard(pointers[0].heard[..., None])
        if self.cfg.own != "none":
            new, odds = self.own_items(batch, tables.codes[:, 0], first_log_probs)
            pointers, gate = (*pointers, new), gate.at[..., len(pointers) + 1].add(odds)
        return Mixture(memory_lib.weigh(gate, pointers), pointers, self.sharpness)

    def start_search(self, batch: dict[str, Array], tables: ItemTables) -> Search:
        """Encodes B requests once; see `Search` for what the beams share.

        Args:
          batch: what `reads` names, `target_positions` `[B, 1]`.
          tables: what is known of every item.
        """
        batch, memory, state, seen = self._read(batch, tables, False)
        prefix = self._prefix(batch, state, tables)
        keys = tuple(layer.project(memory) for layer in self.decoder)
        search = Search(keys, seen, state, prefix)
        if self.cfg.decoding == "sequential":
            return search
        return dataclasses.replace(search, ahead=self._run(search, None))

    def search_step(self, search: Search, past: tuple[Array, ...],
                    codes: Array | None, level: int) -> tuple[Array, tuple[Array, ...]]:
        """Scores the next code of every beam.

        Args:
          search: from `start_search`.
          past: for each decoder layer `[B, K, P + level - 1, 2 * inner]`, keys and
            values of the positions before, P of them the prefix; empty at level 0. Of
            other decoders what `masked.next_outputs` returns.
          codes: `[B, K]` int32, the codes chosen at the level before; None at level 0.
          level: which level is scored now.

        Returns:
          logits `[B, K, V_level]` float32 and the longer `past`.
        """
        if search.ahead is not None:
            x, past = masked.next_outputs(search.ahead, self.passes, past, codes, level,
                                          functools.partial(self._run, search))
            scores = self._score(x, level)
            beams = 1 if codes is None else codes.shape[1]
            return jnp.broadcast_to(scores, (len(scores), beams, scores.shape[2])), past
        if codes is None:
            x = self._decoder_input(search.prefix, search.state, None)
        else:
            x = self._code_vector(codes, level - 1)[:, :, None]
            if self.cfg.position_state:
                x = x + search.state[:, :, None].astype(x.dtype)
            x = x.astype(self.cfg.dtype)
        longer = []
        for index, layer in enumerate(self.decoder):
            before = past[index] if past else None
            x, present = layer(x, search.memory[index], search.allowed, before, False)
            longer.append(present)
        return self._score(self.decoder_norm(x)[:, :, -1], level), tuple(longer)

    def _run(self, search: Search, codes: Array | None) -> Array:
        """Outputs `[B, K, T, D]` at all levels after the first codes `[B, K, l]`."""
        x = self._decoder_input(search.prefix, search.state, codes)
        for layer, memory in zip(self.decoder, search.memory, strict=True):
            x, _ = layer(x, memory, search.allowed, None, False)
        return self.decoder_norm(x)[:, :, -len(self.widths):]

    def _prefix(self, batch: dict[str, Array], state: Array, tables: ItemTables
                ) -> Array:
        """`[B, J, P, D]`: BOS and the instructions."""
        begin = jnp.broadcast_to(self.begin, state.shape)
        if self.cfg.instructions.placement == "none":
            return begin[:, :, None]
        return place(self.cfg.instructions, begin,
                     self._instruction_tokens(batch, tables))

    def _instruction_tokens(self, batch: dict[str, Array], tables: ItemTables
                            ) -> Array:
        """`[B, J, tokens, D]`."""
        triggers = None
        if self.cfg.instructions.trigger:
            triggers = self.item_inputs(jnp.maximum(batch["target_trigger"], 0), tables)
        return self.instructions(batch, triggers)

    def item_keys(self, tables: ItemTables, items: Array | None = None) -> Array:
        """`[..., R]` float32: the retrieval keys of items `[...]`; None: of all N."""
        rows = slice(None) if items is None else items
        known = layers.sum_rows(self.code_vectors, tables.codes[rows], self.starts)
        if tables.features is not None:
            known = jnp.concatenate([known, tables.features[rows]], axis=-1)
        return self.retriever.keys(known)

    def query_and_target(self, batch: dict[str, Array], tables: ItemTables
                         ) -> tuple[Array, Array]:
        """Queries and the keys of the targets, `[B, J, R]` float32 each, length 1."""
        tokens = self._instruction_tokens(batch, tables)
        return (self.retriever.queries(tokens.reshape(*tokens.shape[:2], -1)),
                self.item_keys(tables, batch["targets"]))

    def retrieve(self, batch: dict[str, Array], tables: ItemTables) -> Array:
        """`[B, K]` int32: what is kept of each long history, -1 where there is less.

        Args:
          batch: what `reads` names, one target for each row.
          tables: what is known of every item; with `keys` they are not computed anew.
        """
        tokens = self._instruction_tokens(batch, tables)
        if tokens.shape[1] != 1:
            raise ValueError(f"{tokens.shape[1]} targets for each row; retrieval reads "
                             "a history for one: use the pipeline's mode 'last'")
        query = self.retriever.queries(tokens.reshape(tokens.shape[0], -1))
        keys = self.item_keys(tables) if tables.keys is None else tables.keys
        return choose_events(self.cfg.retrieval, query @ keys.T, batch["long_items"])

    def _read(self, batch: dict[str, Array], tables: ItemTables, train: bool
              ) -> tuple[dict[str, Array], Array, Array, Array]:
        """The batch with the retrieved events before the recent ones, its encoded
        histories, and of each target the state before it and what it may see."""
        if self.cfg.retrieval.events:
            batch = sides.prepend(batch, self.retrieve(batch, tables), self.cfg.beside)
        memory = self.encode(batch, tables, train=train)
        positions = batch["target_positions"]
        state = jnp.take_along_axis(memory, positions[..., None], axis=1)
        return batch, memory, state, visible(batch["segments"], positions,
                                             causal=self.cfg.causal)

    def _decoder_input(self, prefix: Array, state: Array, codes: Array | None,
                       hidden: Array | None = None) -> Array:
        """`[B, J, P + T - 1, D]`: the prefix and the vectors of all codes but the last;
        of a masked decoder `[B, J, P + T, D]`, with those of hidden codes' places."""
        lead, after = (prefix if codes is None else codes).shape[:2], []
        if codes is not None and self.cfg.decoding != "parallel":
            known = codes.shape[-1] - (self.cfg.decoding == "sequential")
            after = [self._code_vector(codes[..., level], level)
                     for level in range(known)]
        if self.cfg.decoding != "sequential":
            after = masked.fill_places(self.places, after, hidden, lead)
        x = jnp.broadcast_to(prefix, (*lead, *prefix.shape[2:]))
        x = jnp.concatenate([x, *(vector[:, :, None] for vector in after)], axis=2)
        if self.cfg.position_state:
            x = x + state[:, :, None].astype(x.dtype)
        return x.astype(self.cfg.dtype)

    def _code_vector(self, codes: Array, level: int) -> Array:
        """Vectors `[..., D]` of one level's codes `[...]`."""
        start, width = self.starts[level], self.widths[level]
        return layers.sum_rows(self.code_vectors[start:start + width],
                               codes[..., None], (0,))

    def _score(self, x: Array, level: int, *, whole: bool = False) -> Array:
        """Logits of one level's codes, or of the `whole` codebook, float32."""
        vectors = self.code_vectors if self.cfg.tied else self.head_vectors
        start, width = self.starts[level], self.widths[level]
        return layers.products(x, vectors if whole else vectors[start:start + width])
