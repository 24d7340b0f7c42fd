"""How a pre-trained generator is aligned: fields of an experiment, and no network."""

import dataclasses
from collections.abc import Mapping

from oxyrec_jax.base import InputError
from oxyrec_jax.rewards.mapping import Component
from oxyrec_jax.train.policy import TWO_STREAMS, PolicyConfig
from oxyrec_jax.train.step import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Alarms:
    """What stops a run, with a reason; 0 turns an alarm off. Limits are ours.

    Attributes:
      kl: mean divergence from the reference in a window, nats for each code, above
        which the policy has left the model that it came from.
      entropy: share of the first window's entropy below which a window's has
        collapsed.
      legality: (normalise "full") share of the first window's legal mass below which a
        window's is; the search is legal in any case.
      divergence: an evaluation whose guard figure is below its start by more than this
        share while the reward is above its start: the reward is being gamed.
    """

    kl: float = 1.0
    entropy: float = 0.2
    legality: float = 0.5
    divergence: float = 0.2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) >= 0:
                raise InputError(f"align.alarms.{field.name} is "
                                 f"{getattr(self, field.name)}, expected at least 0")


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """What the policy learns from itself when it is told more than its requests tell.

    Attributes:
      weight: of the loss beside that of the policy; 0 leaves it out.
      told: kind of texts that the teacher's requests carry, such as "oracle" of a
        simulated shop, or "store" of any log that `oxyrec think` wrote for. The
        student reads those that the network is trained with.
      of: "best", the codes of the candidate with the highest reward of each group, or
        "all" of its candidates.
      certain: as of `losses.distillation_loss`, nats.
    """

    weight: float = 0.0
    told: str = "oracle"
    of: str = "best"
    certain: float = 0.0

    def __post_init__(self) -> None:
        for name, good, expected in (
                ("weight", self.weight >= 0, "at least 0"),
                ("of", self.of in ("best", "all"), "best or all"),
                ("certain", self.certain >= 0, "at least 0")):
            if not good:
                raise InputError(f"align.distil.{name} is {getattr(self, name)!r}, "
                                 f"expected {expected}")


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """How a pre-trained generator is aligned. Values are ours where none is named.

    Attributes:
      steps: experiences of the whole run.
      batch: B, requests of one, over all processes.
      group: G, candidates of one request.
      synthetic: share of a group that the policy draws; the others are logged items,
        as far as the log has them. 0.33 is the published mix.
      draw: "sample" without replacement, or "beam", the best.
      temperature: of drawing, and of the policy that is trained.
      normalise: log-probabilities over the "legal" set, as the search has them, or
        over the "full" codebook; the same for sampler and policy.
      updates: steps of the policy on one experience.
      staleness: most steps between the parameters that draw candidates and those that
        learn from them, at least `updates` - 1. Above it the sampler is renewed.
      policy: the objective.
      anchor: weight of the next-code loss on the logged choice.
      distil: what the policy learns from itself, told more.
      reward: its components by the name of their signal, see `train.signals`.
      horizon: events from the request on that the component trajectory looks at.
      ranker: work directory of a trained ranking model, for the components that need
        one; "": none.
      judge: work directory where `oxyrec judge` made the judge that the experiment's
        judge.kind names, for the methods of two streams; "": none. Its settings
        (judge.share) say how many groups it sees.
      fit: requests whose candidates, logged and drawn by the reference, the reward's
        normalisers are fitted to.
      optimizer: how parameters move.
      log_every: experiences in one window of the log.
      evaluate_every: experiences between evaluations on the validation split.
      checkpoint_every: experiences between checkpoints; evaluations save too.
      metric: the validation figure whose best parameters are kept.
      guard: the validation figure that must not fall while the reward rises.
      patience: evaluations without a better metric after which to stop; 0 never.
      held_out: validation requests whose lists the held-out reward is the mean of.
      alarms: what stops the run.
    """

    steps: int = 200
    batch: int = 32
    group: int = 16
    synthetic: float = 0.33
    draw: str = "sample"
    temperature: float = 1.0
    normalise: str = "legal"
    updates: int = 2
    staleness: int = 1
    policy: PolicyConfig = PolicyConfig()
    anchor: float = 0.1
    distil: DistilConfig = DistilConfig()
    reward: Mapping[str, Component] = dataclasses.field(
        default_factory=lambda: {"tokens": Component("none")})
    horizon: int = 5
    ranker: str = ""
    judge: str = ""
    fit: int = 512
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4, warmup=10,
                                                 schedule="constant", weight_decay=0.0)
    log_every: int = 10
    evaluate_every: int = 50
    checkpoint_every: int = 50
    metric: str = "reward@10"
    guard: str = "item.ndcg@10"
    patience: int = 0
    held_out: int = 1024
    alarms: Alarms = Alarms()

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "updates", "fit", "horizon", "log_every",
                  "evaluate_every", "checkpoint_every", "held_out")
        for name, good, expected in (
                *((name, getattr(self, name) >= 1, "at least 1") for name in counts),
                ("group", 2 <= self.group <= 512, "2 to 512"),
                ("synthetic", 0 <= self.synthetic <= 1, "a share from 0 to 1"),
                ("draw", self.draw in ("sample", "beam"), "sample or beam"),
                ("temperature", self.temperature > 0, "above 0"),
                ("normalise", self.normalise in ("legal", "full"), "legal or full"),
                ("staleness", self.staleness >= self.updates - 1,
                 f"at least align.updates - 1 = {self.updates - 1}"),
                ("anchor", self.anchor >= 0, "at least 0"),
                ("patience", self.patience >= 0, "at least 0"),
                ("reward", self.reward, "one component or more")):
            if not good:
                raise InputError(f"align.{name} is {getattr(self, name)!r}, expected "
                                 f"{expected}")
        if self.optimizer.rows.rule:
            raise InputError("align.optimizer.rows.rule is "
                             f"{self.optimizer.rows.rule!r}, expected '': alignment "
                             "trains item vectors densely")

    def __hash__(self) -> int:
        return hash(repr(self))  # mappings have none

    def compiled(self) -> "AlignConfig":
        """The same for the compiled programs, which do not read the other fields."""
        return dataclasses.replace(
            self, log_every=1, evaluate_every=1, checkpoint_every=1, patience=0, fit=1,
            held_out=1, horizon=1, alarms=Alarms(), metric="", guard="", ranker="",
            judge="")

    @property
    def logged(self) -> int:
        """R, most logged items of a group."""
        return self.group - round(self.synthetic * self.group)

    @property
    def renewal(self) -> int:
        """Experiences that are drawn by one sampler."""
        return (self.staleness + 1) // self.updates

    @property
    def two_streams(self) -> bool:
        """Whether the policy keeps semantic rewards apart from the others."""
        return self.policy.method in TWO_STREAMS
