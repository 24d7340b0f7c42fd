"""The ranking model: how likely each item of a request is clicked, carted, ordered.

One Transformer reads unified tokens: the events of the history, the request (scenario,
trigger, query), and the items that the request shows, one token each:

    [e_1 .. e_n | scenario, trigger, query | c_1 .. c_G]

The context never sees the items, so it is read once, however many they are. The items
of a request are packed into one list, and there are two ways to look at it:

    list    an item sees the context and the items before it: p(. | the list so far)
    alone   an item sees the context and itself: p(. | first in the list)

Both are the same network with another mask. Training draws one of them for each request
(`RankerConfig.alone`), so that serving, which scores items alone, asks nothing that was
not learnt. An item's place in its list is a feature, which takes the habit of looking
at the first items off its own merit; scoring alone puts every item at the first place.

The heads follow the funnel, with logits a, b, c:

    p(click) = s(a)    p(cart) = p(click) s(b)    p(order) = p(cart) s(c)

so that p(order) <= p(cart) <= p(click) always, and the sum of the heads' losses, each
where the step before was taken, is the exact likelihood of how far a person went.

Source: shared Transformer over unified tokens, label packing with a causal mask, heads
for click, cart, order: OxygenREC, https://arxiv.org/abs/2512.22386; the products, Ma et
al. 2018 (ESMM), https://arxiv.org/abs/1804.07931; the mask of single items, places as a
feature and mixing both masks: ours.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models import affinity, layers, sides
from oxyrec_jax.models.alone import attend_alone
from oxyrec_jax.models.config import ModelConfig
from oxyrec_jax.models.instructions import Instructions
from oxyrec_jax.models.tables import ItemTables
from oxyrec_jax.models.transformer import EncoderLayer, visible

HEADS = ("click", "cart", "order")
PLACES = 32  # of a list; those further down share the last; ours
_BUCKETS = 32  # of prices, as `sides` cuts them


@dataclasses.dataclass(frozen=True)
class RankerConfig:
    """What a ranking model reads beside what `ModelConfig` says of its Transformer.

    Of `ModelConfig` count width, heads, head_width, mlp_width, encoder_layers (the
    layers), causal (of the history), item_embedding, item_features, sides, profile,
    instructions (scenario and trigger), buckets, max_distance, dropout and dtype.

    Attributes:
      alone: share of training requests whose items do not see each other.
      places: reads the place of each item in its list.
      query: reads which query was typed, by number and by the vector of its text.
      kinds: columns of the item table that are read, such as its category and brand;
        one of numbers is cut into eight parts of as many items each.
      price: reads the item's price in half octaves.
      matches: reads how far back in the history each item, and each of its kinds, was
        met last, and whether its kinds are the trigger's (ours).
      drawn: items drawn evenly from the catalogue for each training request, which are
        taken as not chosen (ours): a log shows what an old recommender thought good,
        and a model that never met the rest scores it no lower.
      drawn_weight: how much each of them counts, an item that was shown counting 1.
      crossed: factors of each head by which the person is multiplied with the item
        (`affinity.Crossing`); 0 for none.
      calibration: "platt" (scale and shift of each logit), "temperature" (scale) or
        "none"; fitted on the validation split.
    """

    alone: float = 0.5
    places: bool = True
    query: bool = True
    kinds: tuple[str, ...] = ("category", "brand")
    price: bool = True
    matches: bool = True
    drawn: int = 8
    drawn_weight: float = 0.25
    crossed: int = 16
    calibration: str = "platt"

    def __post_init__(self) -> None:
        if not 0 <= self.alone <= 1:
            raise InputError(f"ranker.alone is {self.alone}, expected a share from 0 "
                             "to 1")
        for name in ("drawn", "drawn_weight", "crossed"):
            if getattr(self, name) < 0:
                raise InputError(f"ranker.{name} is {getattr(self, name)}, expected at "
                                 "least 0")
        if self.calibration not in ("platt", "temperature", "none"):
            raise InputError(f"ranker.calibration is {self.calibration!r}, expected "
                             "'platt', 'temperature' or 'none'")


def check_trunk(cfg: ModelConfig) -> None:
    """Raises `InputError` where a network reads what a ranking model does not."""
    for name, asked in (("memory", cfg.memory), ("own", cfg.own != "none"),
                        ("item_head", cfg.item_head),
                        ("retrieval.events", cfg.retrieval.events),
                        ("moe.experts", cfg.moe.experts), ("scan", cfg.scan),
                        ("positions", cfg.positions != "relative"),
                        ("attention", cfg.attention not in ("auto", "plain")),
                        ("instructions.reasoning", cfg.instructions.reasoning),
                        ("instructions.behaviours", cfg.instructions.behaviours)):
        if asked:
            raise InputError(f"model.{name} is set, which a ranking model does not "
                             "read; leave it out of an experiment with a ranker")


class Ranker(nn.Module):
    """Transformer over a history, a request and its items; see the module's docstring.

    Attributes:
      cfg: the Transformer.
      ranking: what else is read.
      widths: codes on each level, T numbers.
      items: N, rows of the item tables.
      profile: rows of the table of profiles.
      kinds: rows of the table of kinds.
      queries: how many queries there are.
    """

    cfg: ModelConfig
    ranking: RankerConfig
    widths: tuple[int, ...]
    items: int
    profile: int = 0
    kinds: int = 0
    queries: int = 0

    def setup(self) -> None:
        cfg, asked = self.cfg, self.ranking
        init = nn.initializers.normal(cfg.width**-0.5)
        none = nn.initializers.zeros_init()

        def table(name: str, axis: str, rows: int, start: Any = init) -> Array:
            return self.param(name, layers.axes(start, axis, "embed"),
                              (rows, cfg.width), jnp.float32)
        self.code_vectors = table("code_vectors", "codes", sum(self.widths))
        if cfg.item_embedding:
            small = nn.initializers.normal(0.1 * cfg.width**-0.5)
            self.item_vectors = table("item_vectors", "items", self.items, small)
        self.feature_in = layers.Linear(cfg.width, ("features", "embed"))
        if asked.price:
            self.price_vectors = table("price_vectors", "one", _BUCKETS)
        if asked.kinds:
            self.kind_vectors = table("kind_vectors", "one", self.kinds)
        if cfg.beside:
            self.side_in = sides.SideVectors(cfg.sides, cfg.width, self.profile)
        if cfg.instructions.placement != "none":
            self.instructions = Instructions(cfg.instructions, cfg.width)
        if asked.query and self.queries:
            self.query_vectors = table("query_vectors", "one", self.queries + 1)
            self.query_in = layers.Linear(cfg.width, ("features", "embed"))
        self.request, self.candidate = (table(name, "one", 1) for name in
                                        ("request", "candidate"))
        if asked.matches:
            # Of the item and of each kind: never or how far back; the trigger's or not.
            self.match_vectors = [
                table(f"match_vectors_{place}", "one", affinity.DISTANCES + 2, none)
                for place in range(1 + len(asked.kinds))]
        if asked.places:
            self.place_vectors = table("place_vectors", "one", PLACES, none)
        self.bias = layers.RelativeBias(cfg.heads, cfg.buckets, cfg.max_distance,
                                        bidirectional=not cfg.causal)
        self.layers = [EncoderLayer(cfg) for _ in range(cfg.encoder_layers)]
        self.norm = layers.RMSNorm()
        if asked.crossed:
            self.crossing = affinity.Crossing(len(HEADS), asked.crossed, self.profile)
        self.heads = layers.Linear(len(HEADS), ("embed", "one"), 0.1)
        self.head_bias = self.param("head_bias", layers.axes(none, "one"),
                                    (len(HEADS),), jnp.float32)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the events that a batch must have for this network."""
        asked = (name.removeprefix("target_") for name in self._requested)
        return tuple(dict.fromkeys((*self.cfg.beside, *asked)))

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of a batch that are read, apart from the items that are scored."""
        return ("items", "segments", "target_positions", *self.cfg.beside,
                *self._requested)

    @property
    def _requested(self) -> tuple[str, ...]:
        query = ("target_query",) if self.ranking.query and self.queries else ()
        return (*self.cfg.instructions.reads, *query)

    def __call__(self, batch: dict[str, Array], tables: ItemTables, *,
                 train: bool = False, others: Array | None = None) -> Array:
        """Scores the items that requests showed, each seeing those before it.

        Args:
          batch: what `reads` names, `candidates` `[B, C]` int32 and `target_mask`
            `[B, C]` bool, as `data.request_rows` makes them.
          tables: what is known of every item, with `price` and `category`.
          train: dropout on, and some requests' items see themselves only; needs the
            "dropout" stream.
          others: `[B, n]` int32, n <= C, items that were not shown; they see themselves
            only, are seen by none, and stand at the places of the first n.

        Returns:
          `[B, C + n, 3]` float32: the logits a, b, c of the funnel.
        """
        items, real = batch["candidates"], batch["target_mask"]
        places = jnp.arange(items.shape[1])
        if others is not None:
            items = jnp.concatenate([items, others], axis=1)
            places = jnp.concatenate([places, places[:others.shape[1]]])
            real = jnp.concatenate([real, jnp.zeros(others.shape, bool)], axis=1)
        count = items.shape[1]
        own = jnp.eye(count, dtype=bool)
        listed = (jnp.arange(count) < batch["candidates"].shape[1])[:, None]
        seen = (jnp.tril(listed & listed.T) & real[:, None]) | own
        if train and self.ranking.alone:
            alone = jax.random.bernoulli(self.make_rng("dropout"), self.ranking.alone,
                                         items.shape[:1])
            seen = jnp.where(alone[:, None, None], own, seen)
        context, known, place = self._context(batch, tables, train)
        vectors = self.item_inputs(items, tables)
        x = self._join(context, vectors + self._beside(batch, items, places, tables,
                                                       known[:, -1]), train)
        before = known.shape[2]
        allowed = jnp.concatenate([
            jnp.pad(known, ((0, 0), (0, 0), (0, count))),
            jnp.concatenate([jnp.broadcast_to(
                known[:, -1:], (*items.shape, before)), seen], axis=2)], axis=1)
        place = jnp.concatenate([place, jnp.repeat(place[:, -1:], count, 1)], axis=1)
        bias = self._biases(place, place, batch["items"].shape[1])
        for layer in self.layers:
            x = layer(x, bias, allowed[:, None], train=train)
        return self._logits(x, vectors, batch)

    def alone(self, batch: dict[str, Array], tables: ItemTables, items: Array,
              places: Array | int = 0) -> Array:
        """Scores items, none of which sees another.

        Args:
          batch: what `reads` names, of B requests.
          tables: as in the call.
          items: `[B, G]` int32.
          places: `[G]` or `[B, G]` int32, where in its list each is taken to stand.

        Returns:
          `[B, G, 3]` float32: the logits a, b, c of the funnel. That of an item depends
          on nothing else in the list.
        """
        context, known, place = self._context(batch, tables, False)
        vectors = self.item_inputs(items, tables)
        x = self._join(context, vectors + self._beside(
            batch, items, jnp.asarray(places), tables, known[:, -1]), False)
        # All items look from the same place, so one row of biases is enough.
        bias = self._biases(jnp.concatenate([place, place[:, -1:]], axis=1), place,
                            batch["items"].shape[1])
        own = self.bias(1, 1)[:, :, 0]
        look = functools.partial(attend_alone, own=own)
        for layer in self.layers:
            x = layer(x, bias, known[:, None], train=False, attend=look)
        return self._logits(x, vectors, batch)

    def item_inputs(self, items: Array, tables: ItemTables) -> Array:
        """One vector for each item: what is known of it, summed."""
        x = layers.sum_rows(self.code_vectors, tables.codes[items],
                            tuple(sum(self.widths[:level])
                                  for level in range(len(self.widths))))
        if self.cfg.item_embedding:
            x = x + self.item_vectors[items]
        if tables.features is not None:
            x = x + self.feature_in(tables.features[items])
        if self.ranking.price:
            price = sides.bucket("price", _given("price", tables.price))
            x = x + self.price_vectors[price[items]]
        if self.ranking.kinds:
            kinds = _given("kinds", tables.kinds)[items]
            x = x + layers.sum_rows(self.kind_vectors, kinds, (0,) * kinds.shape[-1])
        return x

    def _context(self, batch: dict[str, Array], tables: ItemTables, train: bool
                 ) -> tuple[Array, Array, Array]:
        """Inputs `[B, K, D]` of the context, who sees whom of it `[B, K, K]`, the last
        row seeing all of it, and places `[B, K]`, n for what comes after n events."""
        items, last = batch["items"], batch["target_positions"]
        x = self.item_inputs(items, tables)
        if self.cfg.beside:
            x = x + self.side_in(batch, train=train)
        tokens = self._request(batch, tables)
        place = jnp.broadcast_to(jnp.arange(items.shape[1]), items.shape)
        real = visible(batch["segments"], last, causal=True)[:, 0]
        x = jnp.concatenate([x, *tokens], axis=1)
        after = (items.shape[0], x.shape[1] - items.shape[1])
        place = jnp.concatenate([place, jnp.broadcast_to(last + 1, after)], axis=1)
        real = jnp.concatenate([real, jnp.ones(after, bool)], axis=1)
        known = jnp.broadcast_to(real[:, None], (*real.shape, real.shape[1]))
        if self.cfg.causal:
            known = known & (place[:, None] <= place[:, :, None])
        return x, known, place

    def _request(self, batch: dict[str, Array], tables: ItemTables) -> list[Array]:
        """Tokens `[B, R, D]` of the request; the last one is always there."""
        tokens = []
        if self.cfg.instructions.placement != "none":
            triggers = None
            if self.cfg.instructions.trigger:
                triggers = self.item_inputs(jnp.maximum(batch["target_trigger"], 0),
                                            tables)
            tokens.append(self.instructions(batch, triggers)[:, 0])
        begin = jnp.broadcast_to(self.request,
                                 (len(batch["items"]), 1, self.cfg.width))
        if self.ranking.query and self.queries:
            query = jnp.clip(batch["target_query"].astype(jnp.int32), -1,
                             self.queries - 1)
            begin = begin + self.query_vectors[query + 1]
            if tables.queries is not None:
                told = self.query_in(tables.queries[jnp.maximum(query, 0)])
                begin = begin + jnp.where(query[..., None] >= 0, told, 0)
        return [*tokens, begin]

    def _join(self, context: Array, items: Array, train: bool) -> Array:
        """The context followed by the items' inputs, in the configured dtype."""
        x = jnp.concatenate([context, items], axis=1).astype(self.cfg.dtype)
        return layers.dropout(self, x, self.cfg.dropout, train=train)

    def _beside(self, batch: dict[str, Array], items: Array, places: Array,
                tables: ItemTables, seen: Array) -> Array:
        """What is added to the items `[B, G]` for standing in this request: `[B, G, D]`
        or less; `seen` `[B, K]` of the context."""
        x = self.candidate
        if self.ranking.matches:
            x = x + self._matches(batch, items, tables, seen)
        if self.ranking.places:
            x = x + self.place_vectors[jnp.clip(places, 0, PLACES - 1)]
        return x

    def _matches(self, batch: dict[str, Array], items: Array, tables: ItemTables,
                 seen: Array) -> Array:
        """`[B, G, D]`: how far back each item and its kinds were met, in octaves, and
        whether they are the trigger's."""
        history, total = batch["items"], jnp.float32(0)
        back = affinity.events_back(seen[:, :history.shape[1]],
                                    batch["target_positions"])
        for number, vectors in enumerate(self.match_vectors):
            known = (_given("kinds", tables.kinds)[:, number - 1] if number
                     else jnp.arange(self.items))
            mine = known[items]
            total = total + vectors[affinity.met_last(back, known[history], mine)]
            if self.cfg.instructions.trigger:
                trigger = batch["target_trigger"]
                hit = (mine == known[jnp.maximum(trigger, 0)]) & (trigger >= 0)
                total = total + vectors[affinity.DISTANCES + hit.astype(jnp.int32)]
        return total

    def _biases(self, queries: Array, keys: Array, length: int) -> Array:
        """`[B, H, Q, S]`: the bias of each pair of places, which are 0 to `length`."""
        table = self.bias(length + 1, length + 1)[0]
        found = table[:, queries[:, :, None], keys[:, None, :]]
        return found.swapaxes(0, 1)

    def _logits(self, x: Array, vectors: Array, batch: dict[str, Array]) -> Array:
        """Logits of the items, which stand last, behind a state of all the context;
        `vectors` `[B, G, D]` are their `item_inputs`."""
        x = self.norm(x[:, -vectors.shape[1] - 1:])
        found = self.heads(x[:, 1:]).astype(jnp.float32) + self.head_bias
        if self.ranking.crossed:
            profile = None
            if self.profile:
                place = batch["target_positions"][..., None]
                profile = jnp.take_along_axis(batch["profile"], place, axis=1)[:, 0]
            found = found + self.crossing(x[:, 0], vectors, profile)
        return found


def _given(name: str, table: Array | None) -> Array:
    if table is None:
        raise ValueError(f"the ranking model reads {name}, which the tables lack")
    return table
