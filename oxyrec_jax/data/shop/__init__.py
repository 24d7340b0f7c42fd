"""The simulated shop: a seeded world whose logs have what no public log has.

Needs that follow from context and persona by a knowledge base, trigger items, search
queries, exposures, and a response model that is known: p(click, cart, order | person,
context, scenario, item). docs/shop.md shows what it is like.

    shop.prepare_shop(shop.ShopConfig(users=2_000, items=1_000), "runs/shop")

For a closed loop, `build_shop` gives the world, `draw_people` its people, and
`begin`, `next_moment`, `respond` and `remember` their visits (see `visits`).
"""

from oxyrec_jax.data.shop.afterwards import Afterwards, days_after
from oxyrec_jax.data.shop.config import ShopConfig
from oxyrec_jax.data.shop.knowledge import Knowledge, Leaf, Need, Rule, load_knowledge
from oxyrec_jax.data.shop.needs import active_rules, context_need, facts_of
from oxyrec_jax.data.shop.people import People, draw_people
from oxyrec_jax.data.shop.prepare import BEHAVIOURS, load_shop, prepare_shop
from oxyrec_jax.data.shop.queries import query_numbers, query_texts
from oxyrec_jax.data.shop.response import (Moment, Responses, look_probabilities,
                                           response_probabilities)
from oxyrec_jax.data.shop.simulate import (Requests, people_after, simulate_people,
                                           simulate_requests)
from oxyrec_jax.data.shop.visits import (Draws, Visitors, begin, draw, next_moment,
                                         old_recommender, remember, respond)
from oxyrec_jax.data.shop.world import SCENARIOS, Shop, World, build_shop

__all__ = [
    "Afterwards", "BEHAVIOURS", "Draws", "Knowledge", "Leaf", "Moment", "Need",
    "People", "Requests", "Responses", "Rule", "SCENARIOS", "Shop", "ShopConfig",
    "Visitors", "World", "active_rules", "begin", "build_shop", "context_need",
    "days_after", "draw", "draw_people", "facts_of", "load_knowledge", "load_shop",
    "look_probabilities", "next_moment", "old_recommender", "people_after",
    "prepare_shop", "query_numbers", "query_texts", "remember", "respond",
    "response_probabilities", "simulate_people", "simulate_requests"]
