"""What an experiment says about slow thinking: who answers, how, and where it lies."""

import dataclasses

from oxyrec_jax import llm
from oxyrec_jax.base import InputError
from oxyrec_jax.chat import ChatConfig
from oxyrec_jax.thinking.gate import GateConfig, check_gate
from oxyrec_jax.thinking.opening import StoreConfig
from oxyrec_jax.thinking.pipeline import ThinkConfig
from oxyrec_jax.thinking.prompts import PromptConfig, check_prompts
from oxyrec_jax.thinking.reading import ReadConfig
from oxyrec_jax.thinking.reasoner import Budget

BACKENDS = ("lmdb", "redis")
ENGINES = ("process", "ray")


@dataclasses.dataclass(frozen=True)
class ThinkSettings:
    """The near-line run of an experiment. Defaults are ours, the window is the paper's.

    Attributes:
      endpoint: the language model's server; None: the rules of the shop's knowledge
        base answer, which is no language model.
      prompts, gate, chat, budget: of the stages. Of the kinds in `prompts.kinds` the
        first is what recommendations and evaluations read.
      store: where instructions lie.
      read: how long an online path waits for them.
      window: seconds; a user who changed gets one instruction when the window ends.
      version: number of the instructions written, to be raised with every change of
        model, prompt or encoder.
      batch: users looked up, and instructions embedded and stored, at once.
      engine: "process", or "ray" for Ray Data (the extra `cluster`).

    Source: about five minutes from behaviour to instruction as in OxygenREC, arXiv
    2512.22386.
    """

    endpoint: llm.Endpoint | None = None
    prompts: PromptConfig = PromptConfig()
    gate: GateConfig = GateConfig()
    chat: ChatConfig = ChatConfig()
    budget: Budget = Budget()
    store: StoreConfig = StoreConfig()
    read: ReadConfig = ReadConfig()
    window: int = 300
    version: int = 1
    batch: int = 1_024
    engine: str = "process"

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        check_gate(self.gate)
        if self.window < 1:
            raise InputError(f"think.window is {self.window} s, expected a whole "
                             "number of at least 1")
        for name, value, known in (("engine", self.engine, ENGINES),
                                   ("store.backend", self.store.backend, BACKENDS)):
            if value not in known:
                raise InputError(f"think.{name} is {value!r}, expected "
                                 f"{' or '.join(known)}")

    @property
    def served(self) -> str:
        """The kind of instruction that is read."""
        return self.prompts.kinds[0]

    def run(self, shard: int = 0, shards: int = 1) -> ThinkConfig:
        """What one run of the stages needs."""
        return ThinkConfig(self.prompts, self.gate, self.chat, self.budget,
                           self.version, self.batch, shard, shards)
