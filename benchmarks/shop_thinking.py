"""How often the rule base says what a simulated shop's test requests were after.

    python benchmarks/shop_thinking.py --quick --json     # 300 people
    python benchmarks/shop_thinking.py --json             # 2,000 people, as in the docs

The rules see what a near-line system could know (`user_states`): never the need. Their
instruction is compared with the true need of the request, three ways:

    request   facts and history as of the request itself, the best that rules can do
    before    as of the last window of 5 minutes that ended before (--before test)
    changed   as of the last window in which the user did something (--since), which
              is what a near-line store would have held

"rule" is the share of requests with a need of the knowledge base whose very rule spoke,
"product" the share of all requests of that kind whose product the text names; "chance"
is that share after the texts were dealt out anew among the requests. `states_per_s` is
the rate at which states are made, one thread.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from oxyrec_jax import user_states
from oxyrec_jax.data import shop
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.thinking import prompts
from oxyrec_jax.thinking.reasoner import RuleReasoner

WINDOW = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag = {"action": "store_true"}
    parser.add_argument("--quick", help="300 people", **flag)
    parser.add_argument("--json", help="one JSON object as the last line", **flag)
    parser.add_argument("--peer", help="accepted; there is no peer", **flag)
    given = parser.parse_args()
    cfg = shop.ShopConfig(users=300 if given.quick else 2_000)
    with tempfile.TemporaryDirectory() as folder:
        shop.prepare_shop(cfg, pathlib.Path(folder) / "data")
        found = measure(load_dataset(pathlib.Path(folder) / "data"))
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.json:
        print(json.dumps(found))


def measure(log: Dataset) -> dict[str, Any]:
    states = user_states.LogStates(log)
    users = np.arange(len(states.users))
    start = time.perf_counter()
    made = sum(1 for _ in states.states(users, np.full(len(users), states.last())))
    seconds = time.perf_counter() - start
    targets = log.targets("test")
    events = log.offsets()[targets[:, 0]] + targets[:, 1]
    asked, owner = user_states.request_times(log)[events], targets[:, 0]
    table = pq.read_table(log.folder / "requests.parquet", columns=["need"])
    need = table["need"].to_numpy()[log.column("request")[events]]
    needs = pq.read_table(log.folder / "needs.parquet").to_pylist()
    changed = latest(states, owner, asked)
    found: dict[str, Any] = {
        "users": len(users), "requests": len(targets),
        "states_per_s": round(made / seconds),
        "context_needs": sum(needs[number]["kind"] == "context" for number in need),
        "age_hours_p50": round(float(np.median((asked - changed)[changed > 0])) / 3600,
                               1)}
    for name, moments in (("request", asked), ("before", asked // WINDOW * WINDOW),
                          ("changed", changed)):
        found[name] = compare(say(states, owner, moments),
                              [needs[number] for number in need])
    return found


def latest(states: user_states.LogStates, owner: np.ndarray, asked: np.ndarray
           ) -> np.ndarray:
    """The last window before each request in which its user did something, else 0."""
    users, windows = states.changed(0, states.last() + WINDOW, WINDOW)
    out = np.zeros(len(asked), np.int64)
    for place, (user, moment) in enumerate(zip(owner, asked)):
        own = windows[(users == user) & (windows <= moment)]
        out[place] = own.max(initial=0)
    return out


def say(states: user_states.LogStates, owner: np.ndarray, moments: np.ndarray
        ) -> list[str]:
    rules = RuleReasoner(shop.load_knowledge().rules)
    texts = []
    for state, moment in zip(states.states(owner, moments), moments):
        prompt = prompts.build_prompt(state, "reasoning", prompts.PromptConfig())
        told = rules.say(prompt) if moment and prompt else None
        texts.append(json.loads(told)["instruction"] if told else "")
    return texts


def compare(texts: list[str], needs: list[dict[str, Any]]) -> dict[str, Any]:
    known = shop.load_knowledge()
    why = {rule.name: rule.why for rule in known.rules}
    product = [need["category"].split(" > ")[-1].lower() for need in needs]
    context = np.array([need["kind"] == "context" for need in needs])
    spoke = np.array([bool(need["rule"]) and
                      text.lower().startswith(why[need["rule"]].lower() + ":")
                      for text, need in zip(texts, needs)])
    named = np.array([one in text.lower() for text, one in zip(texts, product)])
    dealt = np.random.default_rng(0).permutation(len(texts))
    chance = np.array([one in texts[other].lower()
                       for other, one in zip(dealt, product)])

    def share(what: np.ndarray, of: np.ndarray) -> float:
        return round(float(what[of].mean()), 4)
    everyone = np.ones(len(texts), bool)
    return {"with_text": share(np.array([bool(text) for text in texts]), everyone),
            "rule": share(spoke, context), "product": share(named, context),
            "chance": share(chance, context), "product_all": share(named, everyone),
            "chance_all": share(chance, everyone)}


if __name__ == "__main__":
    main()
