"""Every knob of the simulated shop."""

import calendar
import dataclasses
import datetime

from oxyrec_jax.base import InputError

# Years whose Spring and Mid-Autumn Festivals `contexts` knows.
FIRST_YEAR, LAST_YEAR = 2023, 2030


@dataclasses.dataclass(frozen=True)
class ShopConfig:
    """The size and the nature of a simulated shop.

    The defaults give the log of the quickstart. Where no source is named the value is
    ours, chosen so that the log's statistics lie among those of public logs
    (docs/shop.md shows them side by side).

    Attributes:
      users: how many people.
      items: how many items; at least one for each leaf of the category tree (188).
      events_per_user: mean of the number of events that a person makes, log-normal
        above `min_events`.
      min_events: fewest events of a person; 5 as in the 5-core of the Amazon logs
        (McAuley et al. 2015, https://arxiv.org/abs/1506.04757).
      max_events: most events of a person; a longer life is cut there.
      length_spread: sigma of that log-normal; 1.0 gives the quartiles and the 99 %
        quantile of the Amazon-14 logs relative to their mean.
      seed: of everything; the same seed and sizes give the same bits.
      start: first day of the log, "YYYY-MM-DD".
      days: length of the log; 730 days show each festival twice.
      popularity_exponent: items of one leaf are shown in proportion to
        `(rank + popularity_offset) ** -popularity_exponent` (Zipf-Mandelbrot).
      popularity_offset: flattens the head of that law.
      slate: items shown in one request; at most 20.
      candidates: items that the shop's old recommender retrieves before it ranks the
        best `slate` of them; at least `slate`.
      ranker_noise: standard Gumbel noise on the old recommender's scores, in logits:
        0 always shows the best, large shows candidates at random.
      relevance: share of the candidates that the old recommender draws for the need
        of the moment on top of each scenario's own share, from 0 to 1.
      context_needs: share of new needs that follow from context and persona by the
        knowledge base; the rest follow from the person's own past and taste. These
        are the needs that a history does not tell.
      complement_needs: share of new needs for something that goes with what the
        person put into the cart or ordered of late.
      restock_needs: share of new needs to buy a consumable again, where one is due.
      resume_needs: share of new sessions that take up the last session's need.
      need_change: chance in each request that the need changes within a session.
      session_end: chance after each request that the session ends.
      brand_loyalty: logits that a person's favourite brand of a department gains.
      price_sensitivity: logits that an item loses for each unit of squared distance
        between its price tier and the person's.
      style_weight: logits for one unit of agreement between style vectors.
      click_bias: added to every click logit; moves the click rate.
      intents: standing intents of each person, which come back after long pauses
        (`intents` describes them); 0 for none.
      intent_share: share of new sessions that pursue one of those awake.
      intent_days: length of a spell, in which the same intents are awake.
      intent_awake: chance that an intent is awake in a spell; the mean pause is
        `intent_days * (1 - intent_awake) / intent_awake`.
      intent_style: logits for one unit of agreement with the look of the intent.
      intent_again: share of the candidates that the old recommender takes from what
        was looked at for the intent before.
      keep_exposures: also store what was shown and not clicked.
    """

    users: int = 2_000
    items: int = 1_000
    events_per_user: float = 20.0
    min_events: int = 5
    max_events: int = 500
    length_spread: float = 1.0
    seed: int = 0
    start: str = "2024-01-01"
    days: int = 365
    popularity_exponent: float = 1.2
    popularity_offset: float = 0.5
    slate: int = 8
    candidates: int = 24
    ranker_noise: float = 1.0
    relevance: float = 0.15
    context_needs: float = 0.3
    complement_needs: float = 0.2
    restock_needs: float = 0.5
    resume_needs: float = 0.2
    need_change: float = 0.08
    session_end: float = 0.2
    brand_loyalty: float = 1.5
    price_sensitivity: float = 0.7
    style_weight: float = 1.0
    click_bias: float = 0.0
    intents: int = 0
    intent_share: float = 0.8
    intent_days: float = 5.0
    intent_awake: float = 0.15
    intent_style: float = 3.0
    intent_again: float = 0.3
    keep_exposures: bool = True

    def __post_init__(self) -> None:
        for name in ("users", "items", "days", "slate", "max_events"):
            self._need(name, getattr(self, name) >= 1, "at least 1")
        for name in ("context_needs", "complement_needs", "restock_needs",
                     "resume_needs", "need_change", "relevance", "intent_again"):
            self._need(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._need("complement_needs", self.context_needs + self.complement_needs <= 1,
                   f"at most 1 - context_needs, {1 - self.context_needs:g}")
        for name in ("intent_share", "intent_awake"):
            self._need(name, 0 < getattr(self, name) <= 1, "above 0, at most 1")
        self._need("intents", 0 <= self.intents <= 64, "between 0 and 64")
        self._need("intent_days", self.intent_days >= 1, "at least 1")
        self._need("session_end", 0 < self.session_end <= 1, "above 0, at most 1")
        self._need("seed", 0 <= self.seed < 1 << 32, "between 0 and 4294967295")
        self._need("min_events", 1 <= self.min_events <= self.max_events,
                   "between 1 and max_events")
        self._need("events_per_user", self.events_per_user >= self.min_events,
                   f"at least min_events, {self.min_events}")
        for name in ("length_spread", "popularity_offset", "popularity_exponent",
                     "ranker_noise"):
            self._need(name, getattr(self, name) >= 0, "0 or more")
        self._need("candidates", self.candidates >= self.slate,
                   f"at least slate, {self.slate}")
        self._need("slate", self.slate <= 20, "at most 20")
        self._need("days", self.days <= 3_650, "at most 3650")
        try:
            first = datetime.date.fromisoformat(self.start)
        except ValueError:
            raise InputError(f"start is {self.start!r}, expected a day written as "
                             "YYYY-MM-DD") from None
        last = first + datetime.timedelta(self.days)
        self._need("start", FIRST_YEAR <= first.year and last.year <= LAST_YEAR,
                   f"such that the log lies in the years {FIRST_YEAR} to {LAST_YEAR}, "
                   "whose festivals are known")

    @property
    def first_midnight(self) -> int:
        """When the log begins, seconds since 1970."""
        return calendar.timegm(datetime.date.fromisoformat(self.start).timetuple())

    def _need(self, name: str, fulfilled: bool, expected: str) -> None:
        if not fulfilled:
            raise InputError(f"{name} of the shop is {getattr(self, name)!r}, expected "
                             f"{expected}")
