"""The shop's catalogue: brands, and items with titles made of what they are."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from oxyrec_jax.base import InputError
from oxyrec_jax.data import schema
from oxyrec_jax.data.packing import count_up
from oxyrec_jax.data.shop import knowledge
from oxyrec_jax.data.shop.config import ShopConfig

STYLES = 6  # ours: width of the style vectors
# What a leaf's share of the visits adds to its share of the items; ours: shops list
# more variants of what sells, though not in proportion.
_RANGE_POWER = 0.5
_FIRST = ("Al", "Bre", "Cal", "Dor", "Ela", "Fen", "Gal", "Hel", "Ist", "Jun", "Kes",
          "Lum", "Mir", "Nor", "Ost", "Pel", "Quin", "Ris", "Sol", "Tin", "Ulm", "Vel",
          "Wes", "Yar", "Zen", "Bran", "Cor", "Del", "Eri", "Fal", "Hav", "Lor", "Mal",
          "Or", "Ren", "Sor", "Tal", "Ver")
_MIDDLE = ("", "a", "e", "i", "o", "u")
_LAST = ("dra", "vale", "wick", "ric", "lune", "mere", "lyn", "sund", "ka", "rell",
         "thorn", "bei", "nova", "sta", "quist", "fjord", "ran", "dell", "mira", "tov")
_SERIES = ("Aero", "Atlas", "Aura", "Breeze", "Core", "Cove", "Crest", "Daily", "Dune",
           "Echo", "Ember", "Essence", "Flow", "Glow", "Grove", "Haven", "Heritage",
           "Horizon", "Loft", "Lumen", "Meadow", "Metro", "Mono", "Nest", "Nimbus",
           "North", "Nova", "Oasis", "Orbit", "Origin", "Peak", "Petal", "Pulse",
           "Pure", "Ridge", "River", "Serene", "Signal", "Studio", "Summit", "Terra",
           "Tide", "Trail", "Urban", "Vista", "Wander")
_POSSESSIVE = {"all": "", "women": "Women's ", "men": "Men's ", "kids": "Kids' ",
               "baby": ""}
_AUDIENCE_SHARE = {"all": 1.0, "women": 0.45, "men": 0.35, "kids": 0.2, "baby": 1.0}


@dataclasses.dataclass(frozen=True)
class Brands:
    """Who makes the items; M brands, in order of department.

    Attributes:
      names: `[M]`, no two alike.
      department: `[M]` int32, where the brand sells.
      share: `[M]` float64, its share of the department's visits.
      tier: `[M]` float32, its place between cheap (-2) and luxurious (2).
      style: `[M, STYLES]` float32.
    """

    names: list[str]
    department: np.ndarray
    share: np.ndarray
    tier: np.ndarray
    style: np.ndarray


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """N items as arrays; `item_rows` puts them into words.

    Attributes:
      leaf: `[N]` int32, number of the leaf in the category tree.
      brand: `[N]` int32, number of the brand.
      audience: `[N]` int32, for whom, of `knowledge.AUDIENCES`.
      feature, variant: `[N]` int32, within the leaf's own lists.
      series: `[N]` int32, the model's name.
      tier: `[N]` float32, price tier, in deviations of the leaf's log price.
      price: `[N]` float32, US dollars.
      quality: `[N]` float32, what everyone likes about the item, logits.
      style: `[N, STYLES]` float32, what only some like about it.
      rank: `[N]` int32, place in the leaf by popularity, from 0.
      leaf_start: `[leaves + 1]` int64, where each leaf begins in `by_rank`.
      by_rank: `[N]` int32, the items in order of leaf, then of popularity.
      leaf_share: `[leaves]` float64, each leaf's share of undirected visits.
      brands: the brands.
    """

    leaf: np.ndarray
    brand: np.ndarray
    audience: np.ndarray
    feature: np.ndarray
    variant: np.ndarray
    series: np.ndarray
    tier: np.ndarray
    price: np.ndarray
    quality: np.ndarray
    style: np.ndarray
    rank: np.ndarray
    leaf_start: np.ndarray
    by_rank: np.ndarray
    leaf_share: np.ndarray
    brands: Brands


def build_catalogue(cfg: ShopConfig, known: knowledge.Knowledge) -> Catalogue:
    """Draws the catalogue.

    Raises:
      InputError: fewer items than leaves.
    """
    leaves = known.leaves
    if cfg.items < len(leaves):
        raise InputError(f"items of the shop is {cfg.items}, expected at least "
                         f"{len(leaves)}: one for each leaf of the category tree")
    rng = np.random.Generator(np.random.Philox([cfg.seed, 2]))
    share = np.exp(rng.normal(0, 1.1, len(leaves)))
    # What is used up is bought often, whatever the draw says.
    share *= [2.0 if leaf.restock_days else 1.0 for leaf in leaves]
    share /= share.sum()
    counts = 1 + _apportion(cfg.items - len(leaves), share ** _RANGE_POWER)
    start = np.concatenate([[0], np.cumsum(counts)])
    by_rank = rng.permutation(cfg.items).astype(np.int32)
    leaf = np.empty(cfg.items, np.int32)
    rank = np.empty(cfg.items, np.int32)
    leaf[by_rank] = np.repeat(np.arange(len(leaves)), counts)
    rank[by_rank] = np.arange(cfg.items) - np.repeat(start[:-1], counts)

    departments = known.departments
    department = np.array([departments.index(entry.department) for entry in leaves])
    brands = _brands(rng, cfg.items, department, counts)
    brand = _pick_brands(rng, brands, department[leaf])
    tier = (0.7 * brands.tier[brand] + 0.6 * rng.normal(size=cfg.items)).clip(-2.5, 2.5)
    median = np.array([entry.price for entry in leaves])
    style = 0.7 * brands.style[brand] + 0.7 * rng.normal(size=(cfg.items, STYLES))
    spread = np.log1p(counts)[leaf]
    quality = 0.35 * rng.normal(size=cfg.items) + 0.4 - 0.6 * np.log1p(rank) / spread
    audience, feature, variant = _attributes(rng, leaves, leaf)
    return Catalogue(
        leaf=leaf, brand=brand, audience=audience, feature=feature, variant=variant,
        series=rng.integers(0, 10 * len(_SERIES), cfg.items).astype(np.int32),
        tier=tier.astype(np.float32), price=_round_price(median[leaf]
                                                         * np.exp(0.4 * tier)),
        quality=quality.astype(np.float32),
        style=(style / np.sqrt(STYLES)).astype(np.float32), rank=rank, leaf_start=start,
        by_rank=by_rank, leaf_share=share, brands=brands)


def item_rows(catalogue: Catalogue, known: knowledge.Knowledge,
              rows: int = 65_536) -> Iterator[pa.Table]:
    """Puts the catalogue into words, `rows` items at a time.

    Yields:
      Tables of `schema.ITEM_FIELDS` with the further columns `department`, `shelf`,
      `audience`, `season`, `feature`, `variant` and `price_tier`.
    """
    leaves, names = known.leaves, catalogue.brands.names
    for begin in range(0, len(catalogue.leaf), rows):
        part = range(begin, min(begin + rows, len(catalogue.leaf)))
        kinds = [leaves[number] for number in catalogue.leaf[part]]
        features = [kind.features[number] for kind, number
                    in zip(kinds, catalogue.feature[part])]
        variants = [kind.variants[number] for kind, number
                    in zip(kinds, catalogue.variant[part])]
        audiences = [knowledge.AUDIENCES[number] for number in catalogue.audience[part]]
        brands = [names[number] for number in catalogue.brand[part]]
        titles = [
            f"{brand} {_series(series)} {_POSSESSIVE[audience]}"
            f"{_headline(feature)} {kind.name}, {variant}"
            for brand, series, audience, feature, kind, variant in zip(
                brands, catalogue.series[part], audiences, features, kinds, variants)]
        texts = [f"{title}. {kind.path}. For {_whom(audience)}."
                 for title, kind, audience in zip(titles, kinds, audiences)]
        yield schema.item_table({
            "item_id": [f"item-{number:07d}" for number in part], "title": titles,
            "text": texts, "category": [kind.path for kind in kinds], "brand": brands,
            "price": pa.array(catalogue.price[part]),
            "department": pa.array([kind.department for kind in kinds]),
            "shelf": pa.array([kind.shelf for kind in kinds]),
            "audience": pa.array(audiences),
            "season": pa.array([kind.season for kind in kinds]),
            "feature": pa.array(features), "variant": pa.array(variants),
            "price_tier": pa.array(catalogue.tier[part])})


def _brands(rng: np.random.Generator, items: int, department: np.ndarray,
            counts: np.ndarray) -> Brands:
    sizes = np.bincount(department, weights=counts)
    most = len(_FIRST) * len(_MIDDLE) * len(_LAST)
    # Ours: 30 brands for 1,000 items a department would hold, growing as the root.
    wanted = 3 + np.sqrt(sizes).astype(np.int64)
    wanted = np.minimum(wanted, most // len(sizes))
    home = np.repeat(np.arange(len(sizes)), wanted).astype(np.int32)
    order = count_up(wanted)
    share = 1 / (1.0 + order)
    share /= np.bincount(home, weights=share)[home]
    codes = rng.permutation(most)[:len(home)]
    names = [_FIRST[code // 120] + _MIDDLE[code // 20 % 6] + _LAST[code % 20]
             for code in codes]
    return Brands(names, home, share, rng.normal(0, 0.8, len(home)).astype(np.float32),
                  rng.normal(size=(len(home), STYLES)).astype(np.float32))


def _pick_brands(rng: np.random.Generator, brands: Brands,
                 department: np.ndarray) -> np.ndarray:
    """Draws a brand of its department for each item, by the brands' shares."""
    # One running sum over all departments, each of weight one.
    edges = np.cumsum(brands.share)
    place = np.searchsorted(edges, department + rng.random(len(department)))
    first = np.searchsorted(brands.department, department)
    last = np.searchsorted(brands.department, department, side="right") - 1
    return place.clip(first, last).astype(np.int32)


def _attributes(rng: np.random.Generator, leaves: tuple[knowledge.Leaf, ...],
                leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = np.zeros((3, len(leaf)), np.int32)
    draws = rng.random((3, len(leaf)))
    order = np.argsort(leaf, kind="stable")
    edges = np.searchsorted(leaf[order], np.arange(len(leaves) + 1))
    for number, entry in enumerate(leaves):
        own = order[edges[number]:edges[number + 1]]
        weight = np.array([_AUDIENCE_SHARE[name] for name in entry.audience])
        edge = np.cumsum(weight / weight.sum())[:-1]
        audiences = np.array([knowledge.AUDIENCES.index(name)
                              for name in entry.audience])
        columns[0, own] = audiences[np.searchsorted(edge, draws[0, own])]
        columns[1, own] = draws[1, own] * len(entry.features)
        columns[2, own] = draws[2, own] * len(entry.variants)
    return columns[0], columns[1], columns[2]


def _apportion(total: int, weight: np.ndarray) -> np.ndarray:
    """Splits `total` in proportion to `weight` by largest remainders."""
    exact = total * weight / weight.sum()
    whole = np.floor(exact).astype(np.int64)
    most = np.argsort(whole - exact, kind="stable")[:total - whole.sum()]
    whole[most] += 1
    return whole


def _round_price(price: np.ndarray) -> np.ndarray:
    """Rounds to prices as shops write them: 8.49, 24.99, 139.00."""
    small = np.maximum(np.round(price * 2) / 2 - 0.01, 0.99)
    return np.where(price < 20, small,
                    np.where(price < 100, np.round(price) - 0.01,
                             np.round(price / 10) * 10 - 1)).astype(np.float32)


def _series(number: int) -> str:
    name = _SERIES[number % len(_SERIES)]
    model = number // len(_SERIES)
    return name if model < 4 else f"{name} {model - 2}"


def _headline(feature: str) -> str:
    return " ".join(word if word[0].isupper() or word[0].isdigit()
                    else "-".join(part[:1].upper() + part[1:]
                                  for part in word.split("-"))
                    for word in feature.split())


def _whom(audience: str) -> str:
    return {"all": "everyone", "baby": "babies"}.get(audience, audience)
