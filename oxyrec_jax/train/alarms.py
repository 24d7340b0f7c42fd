"""What a run of the aligner is watched for, and why it was stopped."""

from collections.abc import Mapping
from typing import Any

from oxyrec_jax.train.align_settings import AlignConfig


class Watch:
    """Sees every window and every evaluation, and keeps the first ones to compare with.

    Attributes:
      reason: why the run is to stop, in a sentence; "": it goes on.
    """

    def __init__(self, cfg: AlignConfig):
        self._cfg, self._limits = cfg, cfg.alarms
        self._first: dict[str, float] = {}
        self.reason = ""

    def window(self, line: Mapping[str, float]) -> None:
        """Looks at the mean figures of a window of experiences."""
        if not self._first:
            self._first = {name: line[name] for name in ("entropy", "legality")}
        limits, first = self._limits, self._first
        if limits.kl and line["kl_ref"] > limits.kl:
            self._stop(f"the divergence from the reference is {line['kl_ref']:.3g} "
                       f"nats for each code, above align.alarms.kl = {limits.kl:g}; "
                       "lower the learning rate, or raise align.policy.kl")
        if line["entropy"] < limits.entropy * first["entropy"]:
            self._stop(f"the policy's entropy has collapsed to {line['entropy']:.3g} "
                       f"from {first['entropy']:.3g} nats for each code, below "
                       f"align.alarms.entropy = {limits.entropy:g} of it; raise "
                       "align.anchor or align.policy.kl")
        if self._cfg.normalise == "full" and (
                line["legality"] < limits.legality * first["legality"]):
            self._stop(f"legal items hold {line['legality']:.3g} of their probability "
                       f"over the full codebooks, {first['legality']:.3g} at first, "
                       f"below align.alarms.legality = {limits.legality:g} of it; set "
                       "align.normalise=legal")

    def evaluation(self, start: Mapping[str, float], now: Mapping[str, float]) -> None:
        """Looks at held-out figures beside those that the run began with."""
        guard, share = self._cfg.guard, self._limits.divergence
        risen = now["reward@10"] > start["reward@10"]
        if share and risen and now[guard] < (1 - share) * start[guard]:
            self._stop(f"the held-out reward rose from {start['reward@10']:.4g} to "
                       f"{now['reward@10']:.4g} while {guard} fell from "
                       f"{start[guard]:.4g} to {now[guard]:.4g}, by more than "
                       f"align.alarms.divergence = {share:g}: the reward no longer "
                       "means what users want; mend its components or raise "
                       "align.anchor")

    def _stop(self, reason: str) -> None:
        self.reason = self.reason or reason

    def remembered(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {"first": self._first, "reason": self.reason}

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Takes up what `remembered` gave."""
        self._first, self.reason = dict(facts["first"]), facts["reason"]
