"""What an experiment says about the judge."""

import dataclasses
import math

from oxyrec_jax import llm
from oxyrec_jax.base import InputError
from oxyrec_jax.chat import ChatConfig
from oxyrec_jax.rewards.judge.prompts import JudgePrompt
from oxyrec_jax.rewards.judge.weighting import WeightingConfig
from oxyrec_jax.thinking.reasoner import Budget

KINDS = ("rules", "llm", "truth", "noisy", "biased", "conflicting")
OF_SHOP = KINDS[2:]  # these know the truth of a simulated shop


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """The judge of an experiment. Defaults are ours but for the share.

    Attributes:
      kind: who judges, one of `KINDS`: "rules" on text and vectors of any log, "llm" a
        language model, or of a simulated shop its "truth", and three that are wrong on
        purpose.
      share: of the prompts of an alignment that are judged, by a hash of the request;
        0.05 is the published one.
      seed: of the hash, of what is drawn, and of stage B.
      endpoint: (llm) the server.
      chat, budget, prompt: (llm) how it is asked, and where a run stops asking.
      noise: (noisy) standard deviation on each score, share of pairs told by a coin.
      prefer: (biased) expensive, cheap, brand:NAME or department:NAME.
      against: (conflicting) the business reward that it opposes: click, order, value.
      strength: (biased, conflicting) share of each score that the tilt makes up.
      requests: logged requests that `oxyrec judge` judges.
      candidates: of each, at most.
      pairs: of each, at most, that stage B learns from.
      held: share of the users that stage B does not learn from; figures are theirs.
      weighting: stage B.

    Source: one prompt in twenty as in S-GRec, arXiv 2602.10606.
    """

    kind: str = "rules"
    share: float = 0.05
    seed: int = 0
    endpoint: llm.Endpoint | None = None
    chat: ChatConfig = ChatConfig(max_tokens=2_048)
    budget: Budget = Budget()
    prompt: JudgePrompt = JudgePrompt()
    noise: float = 0.3
    prefer: str = "expensive"
    against: str = "value"
    strength: float = 0.8
    requests: int = 1_000
    candidates: int = 8
    pairs: int = 8
    held: float = 0.3
    weighting: WeightingConfig = WeightingConfig()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"judge.kind is {self.kind!r}, expected one of "
                             f"{', '.join(KINDS)}")
        if self.kind == "llm" and self.endpoint is None:
            raise InputError("judge.kind is llm, which needs a server; name it with "
                             "--set judge.endpoint.url=URL and --set "
                             "judge.endpoint.model=NAME")
        for name, least in (("requests", 2), ("candidates", 2), ("pairs", 1)):
            if getattr(self, name) < least:
                raise InputError(f"judge.{name} is {getattr(self, name)}, expected at "
                                 f"least {least}")
        for name in ("share", "noise", "strength"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise InputError(f"judge.{name} is {value}, expected a share from 0 "
                                 "to 1")
        if not 0 < self.held < 1:
            raise InputError(f"judge.held is {self.held}, expected a share above 0 and "
                             "below 1")
