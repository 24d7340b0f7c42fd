"""Instruction tokens: what steers the decoder beside the history.

The scenario instruction I_s fuses the scenario and the item that opened it; the
reasoning instruction I_r is an adapter over the vector of a text; the behaviour
instruction I_b says what the user shall do with the item. Each becomes a token of the
decoder's prefix:

    none     [BOS, s_1 ..]          left     [I, BOS, s_1 ..]
    replace  [I, s_1 ..]            right    [BOS, I, s_1 ..]
    add      [BOS + I, s_1 ..]

The first code is read off the last token of the prefix.

Source: OxygenREC, https://arxiv.org/abs/2512.22386 (I_s, I_r, the placements), and its
sequel, https://arxiv.org/abs/2607.24255 (I_b). The fusion operator is not published:
I_s is the sum of two networks, one for the scenario and one for the trigger (ours).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from oxyrec_jax.base import Array, InputError
from oxyrec_jax.models import layers

PLACEMENTS = ("none", "replace", "add", "left", "right")


@dataclasses.dataclass(frozen=True)
class InstructionConfig:
    """Which instructions the decoder gets, and where.

    Attributes:
      placement: "none", "replace", "add", "left" or "right" of BOS.
      tokens: 1 sums all instructions into one token, 2 keeps I_s (with I_b) and I_r
        apart; without I_r, the scenario (with I_b) and the trigger. "replace" and "add"
        have room for one.
      scenarios: how many scenarios there are, read from `target_scenario`; 0: the model
        is not told.
      trigger: reads `target_trigger`, the item that opened the scenario.
      reasoning: reads `target_instruction`, the vector of a text.
      behaviours: how many behaviours there are, read from `target_behaviour`, that the
        model can be asked for; 0: none.
      hidden: inner width of the adapters.
    """

    placement: str = "none"
    tokens: int = 1
    scenarios: int = 0
    trigger: bool = False
    reasoning: bool = False
    behaviours: int = 0
    hidden: int = 256

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise InputError(f"model.instructions.placement is {self.placement!r}, "
                             f"expected one of {', '.join(PLACEMENTS)}")
        if self.tokens not in (1, 2):
            raise InputError(f"model.instructions.tokens is {self.tokens}, expected 1 "
                             "or 2")
        if self.tokens == 2 and self.placement in ("replace", "add"):
            raise InputError(f"model.instructions.placement is {self.placement!r}, "
                             "which has room for one token; set "
                             "model.instructions.tokens=1")
        for name in ("scenarios", "behaviours"):
            if not 0 <= getattr(self, name) <= 127:
                raise InputError(f"model.instructions.{name} is {getattr(self, name)}, "
                                 "expected 0 to 127")
        if self.hidden < 1:
            raise InputError(f"model.instructions.hidden is {self.hidden}, expected at "
                             "least 1")
        if self.placement != "none" and not self.reads:
            raise InputError(
                f"model.instructions.placement is {self.placement!r} and there is "
                "nothing to place: set scenarios, trigger, reasoning or behaviours")

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of the batch that the instructions are made of."""
        if self.placement == "none":
            return ()
        wanted = (("target_scenario", self.scenarios), ("target_trigger", self.trigger),
                  ("target_instruction", self.reasoning),
                  ("target_behaviour", self.behaviours))
        return tuple(name for name, asked in wanted if asked)

    @property
    def prefix(self) -> int:
        """Tokens of the decoder before the first code."""
        return 1 + self.tokens * (self.placement in ("left", "right"))


class Instructions(nn.Module):
    """Makes the instruction tokens of each target.

    Attributes:
      cfg: which instructions.
      width: D.
    """

    cfg: InstructionConfig
    width: int

    def setup(self) -> None:
        cfg, width = self.cfg, self.width
        init = nn.initializers.normal(width**-0.5)

        def table(name: str, rows: int) -> Array:
            return self.param(name, layers.axes(init, "one", "embed"), (rows, width),
                              jnp.float32)
        if cfg.scenarios:
            self.scenario_vectors = table("scenario_vectors", cfg.scenarios)
            self.scenario_in = Adapter(cfg.hidden, width)
        if cfg.trigger:
            self.no_trigger = table("no_trigger", 1)
            self.trigger_in = Adapter(cfg.hidden, width)
        if cfg.reasoning:
            self.no_reasoning = table("no_reasoning", 1)
            self.reasoning_in = Adapter(cfg.hidden, width, zero=True)
        if cfg.behaviours:
            self.behaviour_vectors = table("behaviour_vectors", cfg.behaviours)

    def __call__(self, batch: dict[str, Array], triggers: Array | None) -> Array:
        """Makes the tokens.

        Args:
          batch: the keys of `InstructionConfig.reads`: `target_scenario`,
            `target_trigger` (-1: none), `target_behaviour` `[B, J]` int and
            `target_instruction` `[B, J, F]` float, all zero where there is no text.
          triggers: `[B, J, D]` float: input vectors of the trigger items, anything
            where there is none; None where triggers are not read.

        Returns:
          `[B, J, tokens, D]` float32.
        """
        scenario, trigger = self.scenario(batch), self.trigger(batch, triggers)
        reasoning = self.reasoning(batch)
        if self.cfg.tokens == 1:
            return jnp.asarray(_sum(scenario, trigger, reasoning))[:, :, None]
        first, second = ((_sum(scenario, trigger), reasoning) if self.cfg.reasoning
                         else (scenario, trigger))
        none = jnp.zeros_like(jnp.asarray(_sum(first, second)))
        return jnp.stack([none if part is None else part for part in (first, second)],
                         axis=2)

    def scenario(self, batch: dict[str, Array]) -> Array | None:
        """The scenario with I_b, `[B, J, D]`; None where the model is told neither."""
        known, wanted = None, None
        if self.cfg.scenarios:
            known = self.scenario_in(
                self.scenario_vectors[batch["target_scenario"].astype(jnp.int32)])
        if self.cfg.behaviours:
            wanted = self.behaviour_vectors[
                batch["target_behaviour"].astype(jnp.int32)]
        return _sum(known, wanted)

    def trigger(self, batch: dict[str, Array], triggers: Array | None) -> Array | None:
        """What opened the scenario, `[B, J, D]`; None where it is not told."""
        if not self.cfg.trigger or triggers is None:
            return None
        some = batch["target_trigger"][..., None] >= 0
        return self.trigger_in(jnp.where(some, triggers, self.no_trigger[0]))

    def reasoning(self, batch: dict[str, Array]) -> Array | None:
        """I_r `[B, J, D]`: a learned default, moved by the text where there is one.

        The adapter begins at zero, so that a model trained without texts answers as
        before until it has learnt what a text means. Texts are scaled to a mean square
        of 1 first: encoders differ a hundredfold in the length of their vectors, and
        small ones were hardly learnt (HR@10 under right texts .554 without and .602
        with it on the toy shop of docs/instructions.md).
        """
        if not self.cfg.reasoning:
            return None
        vectors = batch["target_instruction"].astype(jnp.float32)
        some = jnp.any(vectors != 0, axis=-1, keepdims=True)
        size = jnp.mean(jnp.square(vectors), axis=-1, keepdims=True)
        vectors = vectors * jax.lax.rsqrt(jnp.where(some, size, 1))
        moved = jnp.where(some, self.reasoning_in(vectors), 0)
        return self.no_reasoning[0] + moved


class Adapter(nn.Module):
    """Two linear maps with a SiLU between them.

    Attributes:
      hidden: inner width.
      features: width of the output.
      zero: starts as the zero function.
    """

    hidden: int
    features: int
    zero: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., F]` to `[..., features]`."""
        inner = jax.nn.silu(layers.Linear(self.hidden, ("features", "mlp"),
                                          name="into")(x))
        scale = 0.0 if self.zero else 1.0
        return layers.Linear(self.features, ("mlp", "embed"), scale, name="out")(inner)


def _sum(*parts: Array | None) -> Array | None:
    """The sum of those that are there; None where there is none."""
    some = [part for part in parts if part is not None]
    return sum(some[1:], some[0]) if some else None


def place(cfg: InstructionConfig, begin: Array, tokens: Array | None) -> Array:
    """Puts the instruction tokens to BOS.

    Args:
      cfg: where.
      begin: `[B, J, D]`: BOS.
      tokens: `[B, J, tokens, D]`, or None where `placement` is "none".

    Returns:
      `[B, J, P, D]`: the decoder's prefix of `cfg.prefix` tokens.
    """
    begin = begin[:, :, None]
    if cfg.placement == "none" or tokens is None:
        return begin
    if cfg.placement == "replace":
        return tokens
    if cfg.placement == "add":
        return begin + tokens
    parts = [tokens, begin] if cfg.placement == "left" else [begin, tokens]
    return jnp.concatenate(parts, axis=2)
