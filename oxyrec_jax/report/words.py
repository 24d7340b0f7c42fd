"""The report's words: names of figures, the verdict, the glossary."""

from collections.abc import Mapping
from typing import Any

from oxyrec_jax.report.fragments import number

RECOMMENDERS = {
    "popularity": "Popularity",
    "markov": "Markov, 3 back",
    "title_knn": "Nearest titles",
    "markov_title": "Markov and nearest titles",
    "popularity_shuffled": "Popularity, shuffled",
    "markov_shuffled": "Markov, shuffled",
    "title_knn_shuffled": "Nearest titles, shuffled",
}

ONLINE = {"uctr": "UCTR", "uctcvr": "UCTCVR", "orders": "Orders per user",
          "gmv": "GMV per user"}
"""What an online test is judged by."""

METRICS = {"hr": "HR", "recall": "Recall", "ndcg": "NDCG", "mrr": "MRR",
           "coverage": "Coverage", "gini": "Gini", "validity": "Validity"}

AXES = {
    "popularity": ("How popular the target is",
                   "Targets grouped by how often training saw them. A model that only "
                   "learned what sells scores on the right and fails on the left."),
    "repeat": ("New to the user or met before",
               "Targets the user had already met are easy to guess from the history "
               "alone; the others are the discoveries."),
    "order": ("Does the target's product id rise?",
              "Logs whose times are whole days often list a day's events by product "
              "id. Where rising targets score far above falling ones, some of the "
              "figure comes from how the file is sorted, not from the user."),
}

GLOSSARY = (
    ("Target",
     "The event a recommender has to guess. It sees the user's earlier events "
     "(the history) and ranks the whole catalogue."),
    ("HR@K, Recall@K",
     "Share of targets found among the first K recommendations. With one target "
     "a row, hit rate and recall are the same."),
    ("NDCG@K",
     "Like recall, but a hit counts 1 / log2(rank + 1), rank from 1: first place "
     "1, third place 0.5. Misses count 0."),
    ("MRR@K",
     "Mean of 1 / rank of the target, 0 where it is not among the first K."),
    ("Coverage@K",
     "Share of the catalogue that is in somebody's first K."),
    ("Gini@K",
     "How unequally recommendations are spread over the catalogue: 0 equally, "
     "near 1 when a few items fill every list."),
    ("Validity@K",
     "Share of the K places that hold an existing item, none twice."),
    ("Semantic ID (SID)",
     "The few codes, coarse to fine, that stand for an item. Items alike in text "
     "or use share their first codes. The model writes these codes."),
    ("Item level, SID level",
     "A semantic ID may stand for several items. At SID level naming the right "
     "ID is a hit; at item level the item itself must be ranked, after its "
     "namesakes are put in a stated order. Item level is the honest figure."),
    ("Collision",
     "Two or more items with the same semantic ID."),
    ("Perplexity of a level",
     "How many codes of the level are in even use: as many equally used codes "
     "would be as hard to guess."),
    ("Interval",
     "95 % bootstrap interval unless said otherwise: the range of the figure "
     "when users are drawn again, with replacement, from those tested."),
    ("Paired difference",
     "Model minus baseline on the same users. Its interval is narrower than the "
     "two figures' own; without 0 in it the difference is clear."),
    ("Popularity, Markov, nearest titles",
     "Recommenders without any learning: the most frequent items; what followed "
     "the last three items in training; the items whose text is nearest to that "
     "of the last three. A trained model has to beat them."),
    ("Shuffled",
     "The same baseline with the events inside each training history shuffled. "
     "What it loses is what the order in the file told."),
    ("Tie policy",
     "How events of one user at the same time were put in order."),
    ("Leave-one-out",
     "Protocol P1: each user's last event is the test target, the one before it "
     "the validation target, the rest is training."),
)


TOKENIZER = (  # key, name, kind of its values, good values, meaning
    ("duplicates", "Items that share an ID", "share", "0 to 2 %",
     "Share of the items whose semantic ID is not theirs alone. The model cannot tell "
     "such items apart."),
    ("mean_items_per_sid", "Items per ID, mean", "number", "near 1",
     "Items divided by semantic IDs in use."),
    ("p99", "Items per ID, P99", "number", "1 to 3",
     "99 % of the semantic IDs in use stand for so many items or fewer."),
    ("p999", "Items per ID, P999", "number", "below 50",
     "The same for 99.9 %: the crowded tail."),
    ("max_items_per_sid", "Items per ID, most", "number", "below 50",
     "Items of the most crowded semantic ID, often copies of one text."),
    ("coverage", "Coverage", "share", "95 % and more",
     "Share of a level's codes that stand for an item."),
    ("dead_codes", "Dead codes", "number", "0",
     "Codes of a level that stand for nothing: room in the model that is paid for and "
     "never used."),
    ("perplexity", "Perplexity", "number", "half the width and more",
     "As many equally used codes would be as hard to guess: one where one code takes "
     "everything, the level's width where all are used alike."),
    ("gini", "Gini", "number", "below 0.5",
     "How unequally items are spread over a level's codes: 0 equally, near 1 on few."),
    ("reconstruction", "Left over", "share", "falls with every level",
     "Share of the embeddings' variance that the codes up to a level do not restore."),
    ("purity", "Category purity", "share", "far above the largest category",
     "Share of items that are of the commonest category under their prefix. The first "
     "value is for one code, the next for two, and so on."),
    ("nmi", "Mutual information", "number", "0.4 and more for one code",
     "How much prefix and category tell of each other: 0 nothing, 1 all. Unlike "
     "purity it does not rise merely because there are more codes."),
    ("largest_category", "Largest category", "share", "",
     "Its share of the items: the purity of no codes at all, to compare with."),
    ("agreement.share", "Used together, same prefix", "share", "",
     "Of the pairs of items that training users took within a few events, those that "
     "share a prefix."),
    ("agreement.chance", "The same by chance", "share", "",
     "What it would be if partners were drawn anew, popular items more often."),
    ("agreement.lift", "Agreement, lift", "lift", "3 and more for one code",
     "The first of these over the second: ×1 means that the codes know nothing of what "
     "people use together."),
)


def values(found: Any, kind: str) -> str:
    """A figure of `TOKENIZER` as readers see it, level after level where it has them.
    """
    several = isinstance(found, (list, tuple))
    return " · ".join(_value(value, kind) for value in (found if several else [found]))


def _value(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    if kind == "share":
        return f"{value:.1%}" if value >= 1e-3 or value == 0 else f"{value:.2%}"
    if kind == "lift":
        return f"×{value:,.1f}"
    whole = isinstance(value, int) or value == int(value)
    return f"{value:,.0f}" if whole or value >= 100 else f"{value:.3g}"


def recommender(name: str) -> str:
    """The name of a baseline or run as readers see it."""
    return RECOMMENDERS.get(name, name)


def cell(name: str) -> str:
    """`item.ndcg@10` → `NDCG@10`, `sid.hr@5` → `HR@5 (SID)`."""
    level, _, rest = name.rpartition(".")
    metric, _, k = rest.partition("@")
    label = f"{METRICS.get(metric, metric)}@{k}" if k else METRICS.get(metric, metric)
    return f"{label} (SID)" if level.rpartition(".")[2] == "sid" else label


def verdict(results: Mapping[str, Any]) -> tuple[str, str]:
    """One sentence on the model beside the best baseline, and "good", "bad" or "".

    The difference is called clear where its interval does not hold 0.
    """
    headline = results["config"]["headline"]
    rival = results["differences"]["baseline"]
    gap = results["differences"]["cells"][headline]
    own, other = results[headline], results["baselines"][rival][headline]
    ratio = f" ({own / other - 1:+.0%})" if other > 0 else ""
    figures = (f"{cell(headline)} is {number(own)}; the best untrained baseline, "
               f"{recommender(rival)}, has {number(other)}{ratio}. On the same users "
               f"the difference is {gap['mean']:+.4f}, interval {gap['low']:+.4f} to "
               f"{gap['high']:+.4f}: ")
    judged, mood = told_apart(gap)
    return figures + judged, mood


def told_apart(gap: Mapping[str, float]) -> tuple[str, str]:
    """What the interval of a difference from a baseline says, and its mood."""
    if gap["low"] > 0:
        return "the model is clearly better.", "good"
    if gap["high"] < 0:
        return "the model is clearly worse.", "bad"
    return "the two cannot be told apart.", ""
