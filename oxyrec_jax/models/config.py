"""What the generator looks like."""

import dataclasses

from oxyrec_jax.base import InputError
from oxyrec_jax.models.instructions import InstructionConfig
from oxyrec_jax.models.moe import MoEConfig
from oxyrec_jax.models.retrieval import RetrievalConfig
from oxyrec_jax.models.sides import SIDES


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What the network looks like.

    Attributes:
      width: D, width of the residual stream.
      heads: H, attention heads of encoder and decoder.
      head_width: width of one head.
      mlp_width: inner width of the feed-forward layers.
      encoder_layers: depth of the encoder.
      decoder_layers: depth of the decoder.
      causal: every history position supervised in one pass; otherwise the encoder
        is bidirectional and a row has one target.
      item_embedding: adds a learned vector of each item to its code vectors.
      position_state: adds the encoder's state just before the target to BOS.
      decoding: "sequential": each code is scored given those before it. "parallel": all
        at once, from a learnt vector in the place of each code, so that a request runs
        the decoder once and not once for each beam; codes then depend on each other
        through the trie alone. "masked": a random part of the codes is hidden in
        training, and a position sees the others on both sides (`models.masked`).
      passes: of a masked decoder, how often a search runs it: 1 for all codes at once,
        T or 0 for one code after the other. Training does not read it.
      tied: the head scores codes with the decoder's input vectors.
      head: "level" scores one codebook per step, "shared" all codes of all levels.
      legal_softmax: training normalises over the children that the trie allows, as
        the constrained search does; otherwise over the whole codebook.
      buckets: relative-position buckets (32 in the paper).
      max_distance: distance of the last bucket (128 in the paper).
      memory: mixes in what followed the last items in training (`models.memory`).
      successors: of each item, kept in the memory's table.
      nearest: of each item by text, which the memory asks too; 0: it does not.
      repeats: whether the memory's candidates may stand in the history; false for logs
        in which nobody takes an item twice.
      own: mixes in what the person took before, the newest most: "events", each event
        fades beside the one after it; "requests", each request (basket) does, which the
        log must tell; "none": it does not (`models.own_items`). Needs no memory.
      item_head: mixes in a softmax over all items, from the encoder's state: N * D
        products for each request (ours).
      item_features: adds a projection of the vectors that the tokenizer quantised.
      sides: what else of each history event is read: "behaviour", "scenario", "price"
        (on a logarithmic scale), "gap" (the time until the next event or the request),
        "hour", "weekday" (of that next event or request).
      profile: what is read of the person: columns of the data set's table of people or
        users, such as "city", "life", "hobbies" (`data.profiles` tells which will do).
      instructions: the tokens that steer the decoder.
      retrieval: what is read of a history longer than the recent one, by instruction.
      moe: experts in place of the decoder's feed-forward layers.
      dropout: rate on embeddings and on each residual branch.
      dtype: of activations and matrix products, "float32" or "bfloat16".
      remat: what a layer's forward pass leaves for the backward pass: "none" of it is
        computed again, "dots": all but its matrix products is, "full": all is.
      positions: what tells the encoder where an item stands: "relative", a learned bias
        by distance, as in the paper; "rotary", queries and keys turned by position.
      attention: "plain", "xla", "cudnn" (`models.attention`), or "auto": cuDNN's fused
        kernel where device and network allow it, else plain.
      scan: training runs the layers of encoder and of decoder as one loop each, so that
        compile time does not grow with depth; parameters are the same either way.
    """

    width: int = 128
    heads: int = 4
    head_width: int = 32
    mlp_width: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 1
    causal: bool = True
    item_embedding: bool = True
    position_state: bool = True
    decoding: str = "sequential"
    passes: int = 0
    tied: bool = True
    head: str = "level"
    legal_softmax: bool = True
    buckets: int = 32
    max_distance: int = 128
    memory: bool = False
    successors: int = 24
    nearest: int = 0
    repeats: bool = True
    own: str = "none"
    item_head: bool = False
    item_features: bool = False
    sides: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    instructions: InstructionConfig = InstructionConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    moe: MoEConfig = MoEConfig()
    dropout: float = 0.2
    dtype: str = "float32"
    remat: str = "none"
    positions: str = "relative"
    attention: str = "auto"
    scan: bool = False

    def __post_init__(self) -> None:
        exact = self.buckets // (2 if self.causal else 4)
        for name, good, expected in (
                *((name, getattr(self, name) >= 1, "at least 1") for name in
                  ("width", "heads", "head_width", "mlp_width", "decoder_layers",
                   "successors")),
                ("encoder_layers", self.encoder_layers >= 0, "at least 0"),
                ("nearest", self.nearest >= 0, "at least 0"),
                ("own", self.own in ("none", "events", "requests"),
                 "'none', 'events' or 'requests'"),
                ("head", self.head in ("level", "shared"), "'level' or 'shared'"),
                ("decoding", self.decoding in ("sequential", "parallel", "masked"),
                 "'sequential', 'parallel' or 'masked'"),
                ("passes", self.passes == 0
                 or self.passes > 0 and self.decoding == "masked",
                 "at least 0, and 0 but with model.decoding=masked"),
                ("buckets", exact >= 1, f"at least {2 if self.causal else 4}"),
                ("max_distance", self.max_distance > exact, f"more than {exact}"),
                ("sides", set(self.sides) <= set(SIDES), f"some of {', '.join(SIDES)}"),
                ("positions", self.positions == "relative" or
                 self.positions == "rotary" and self.head_width % 2 == 0,
                 "'relative', or 'rotary' with an even model.head_width"),
                ("attention", self.attention in ("auto", "plain", "xla", "cudnn"),
                 "'auto', 'plain', 'xla' or 'cudnn'"),
                ("dropout", 0 <= self.dropout < 1, "0 or more and less than 1"),
                ("dtype", self.dtype in ("float32", "bfloat16"),
                 "'float32' or 'bfloat16'"),
                ("remat", self.remat in ("none", "dots", "full"),
                 "'none', 'dots' or 'full'")):
            if not good:
                raise InputError(f"model.{name} is {getattr(self, name)!r}, expected "
                                 f"{expected}")

        if self.retrieval.events and self.instructions.placement == "none":
            raise InputError("model.retrieval asks by instructions and "
                             "model.instructions.placement is 'none'; place them, or "
                             "set model.retrieval.events=0")

    @property
    def beside(self) -> tuple[str, ...]:
        """Columns of a batch that are read beside each item of the history."""
        return (*self.sides, *(("profile",) if self.profile else ()))

    @property
    def told(self) -> tuple[str, ...]:
        """Columns of a batch with one number for each item of the history."""
        return (*self.sides, *self.opens)

    @property
    def opens(self) -> tuple[str, ...]:
        """The column of a batch that tells where requests begin, where it is read."""
        return ("opens",) if self.own == "requests" else ()

    @property
    def experts(self) -> int:
        """Mixed distributions: the decoder's, the memory's, own items', the item
        head's."""
        return 1 + self.memory + (self.own != "none") + self.item_head
