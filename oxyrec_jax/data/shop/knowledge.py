"""What the shop's world knows: category tree, rules from context to need, cities.

Three tables lie beside this file and can be read by anyone: `taxonomy.csv`,
`knowledge.csv` and `cities.csv`. A rule of the knowledge base says: when all these
facts hold (`cold+damp+baby`), these needs follow (`Baby Sleepwear:moisture-wicking`).
"""

import csv
import dataclasses
import importlib.resources

import numpy as np

DEPARTMENT_SEPARATOR = " > "
AUDIENCES = ("all", "women", "men", "baby", "kids")
SEASONS = ("any", "cold", "cool", "warm", "hot", "rain", "snow", "damp", "dry")
LIVES = ("student", "single", "couple", "baby", "kids", "senior")
HOBBIES = ("camping", "running", "cooking", "baking", "gaming", "photography",
           "gardening", "reading", "yoga", "cycling", "fishing", "music")
PETS = ("none", "cat", "dog")
GENDERS = ("woman", "man")
WEATHER = ("freezing", "cold", "warm", "hot", "rain", "snow", "damp", "dry")
QUARTERS = ("spring", "summer", "autumn", "winter", "weekend")
FESTIVALS = ("new-year", "spring-festival", "valentine", "womens-day", "easter",
             "childrens-day", "midyear-sale", "back-to-school", "mid-autumn",
             "halloween", "singles-day", "black-friday", "winter-solstice",
             "christmas")
TIERS = ("thrifty", "premium")

# Facts of a person come first, then facts of a place and day.
PERSON_FACTS = (*LIVES, *HOBBIES, *PETS[1:], *GENDERS, *TIERS)
DAY_FACTS = (*WEATHER, *QUARTERS, *FESTIVALS)
FACTS = (*PERSON_FACTS, *DAY_FACTS)

# Why a need arose.
NEED_KINDS = ("taste", "context", "complement", "restock", "project")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the category tree, as `taxonomy.csv` has it.

    Attributes:
      name: what the item is, "Rain Jacket".
      department: root of the tree; `shelf`: the level between.
      price: median price in US dollars.
      audience: for whom items of it are made, of `AUDIENCES`.
      season: when it sells, of `SEASONS`.
      tags: lives, hobbies and pets that want it.
      restock_days: days after which it is used up; 0 for durables.
      features, variants: what distinguishes its items.
      complements: leaves that go with it.
    """

    name: str
    department: str
    shelf: str
    price: float
    audience: tuple[str, ...]
    season: str
    tags: tuple[str, ...]
    restock_days: int
    features: tuple[str, ...]
    variants: tuple[str, ...]
    complements: tuple[str, ...]

    @property
    def path(self) -> str:
        """The leaf's place in the tree, "Apparel > Outerwear > Rain Jacket"."""
        return DEPARTMENT_SEPARATOR.join((self.department, self.shelf, self.name))


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the knowledge base: facts that must all hold, and what follows."""

    name: str
    when: tuple[str, ...]
    weight: float
    why: str
    needs: tuple[tuple[str, str], ...]  # (leaf, feature or "")


@dataclasses.dataclass(frozen=True)
class Need:
    """What a person is after in a request, and why.

    Attributes:
      kind: of `NEED_KINDS`.
      leaf: number of the wanted leaf.
      feature: number of the wanted feature within the leaf; -1 if any will do.
      rule: number of the rule that it follows from; -1 for other kinds.
      text: the need in words: what an ideal instruction would say.
    """

    kind: str
    leaf: int
    feature: int
    rule: int
    text: str


@dataclasses.dataclass(frozen=True)
class City:
    """A city and its climate normals, rounded; each of the twelve months in turn.

    Attributes:
      temperature: `[12]` mean degrees Celsius.
      humidity: `[12]` mean relative humidity in per cent.
      rain: `[12]` share of days with rain or snow.
    """

    name: str
    region: str
    weight: float
    temperature: np.ndarray
    humidity: np.ndarray
    rain: np.ndarray


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """All tables of the world's knowledge; numbers are positions in these tuples.

    The needs of rule r come first in order of rule; then for each leaf one need of
    kind "taste", one "complement" and one "restock"; in a shop whose people have
    standing intents also one "project".
    """

    leaves: tuple[Leaf, ...]
    rules: tuple[Rule, ...]
    cities: tuple[City, ...]
    needs: tuple[Need, ...]

    @property
    def departments(self) -> tuple[str, ...]:
        """The departments in the order of the table."""
        return tuple(dict.fromkeys(leaf.department for leaf in self.leaves))


def load_knowledge(projects: bool = False) -> Knowledge:
    """Reads the three tables.

    Args:
      projects: whether there are needs of kind "project".

    Raises:
      ValueError: a table names a leaf, feature, fact or audience that does not exist.
    """
    leaves = tuple(
        Leaf(name=row["leaf"], department=row["department"], shelf=row["shelf"],
             price=float(row["price"]), audience=_list(row["audience"]),
             season=row["season"], tags=_list(row["tags"]),
             restock_days=int(row["restock_days"]), features=_list(row["features"]),
             variants=_list(row["variants"]), complements=_list(row["complements"]))
        for row in _rows("taxonomy.csv"))
    rules = tuple(
        Rule(row["rule"], tuple(row["when"].split("+")), float(row["weight"]),
             row["why"], tuple(_need(entry) for entry in _list(row["needs"])))
        for row in _rows("knowledge.csv"))
    cities = tuple(
        City(row["city"], row["region"], float(row["weight"]),
             *(np.array(_list(row[name]), np.float64)
               for name in ("temperature", "humidity", "rain")))
        for row in _rows("cities.csv"))
    _check(leaves, rules, cities)
    return Knowledge(leaves, rules, cities, _needs(leaves, rules, projects))


def _needs(leaves: tuple[Leaf, ...], rules: tuple[Rule, ...],
           projects: bool) -> tuple[Need, ...]:
    number = {leaf.name: index for index, leaf in enumerate(leaves)}
    needs = []
    for index, rule in enumerate(rules):
        for name, feature in rule.needs:
            leaf = leaves[number[name]]
            what = f"{feature} {name.lower()}" if feature else name.lower()
            slot = leaf.features.index(feature) if feature else -1
            text = f"{rule.why[0].upper()}{rule.why[1:]}: look for {what}."
            needs.append(Need("context", number[name], slot, index, text))
    texts = {"taste": "Feels like browsing for {}.",
             "complement": "Wants {} to go with an earlier choice.",
             "restock": "Has nearly used up the {}: order it again."}
    if projects:
        texts["project"] = "Goes on with a project of old that lacks {}."
    for kind, text in texts.items():
        for index, leaf in enumerate(leaves):
            needs.append(Need(kind, index, -1, -1, text.format(leaf.name.lower())))
    return tuple(needs)


def _rows(name: str) -> list[dict[str, str]]:
    table = importlib.resources.files(__package__).joinpath(name)
    with table.open("r", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _list(cell: str) -> tuple[str, ...]:
    return tuple(cell.split("|")) if cell else ()


def _need(entry: str) -> tuple[str, str]:
    leaf, _, feature = entry.partition(":")
    return leaf, feature


def _check(leaves: tuple[Leaf, ...], rules: tuple[Rule, ...],
           cities: tuple[City, ...]) -> None:
    by_name = {leaf.name: leaf for leaf in leaves}
    if len(by_name) != len(leaves):
        raise ValueError("taxonomy.csv has two leaves of one name")
    order = [leaf.department for leaf in leaves]
    if order != sorted(order, key=order.index):
        raise ValueError("taxonomy.csv does not keep the leaves of a department "
                         "together")
    for leaf in leaves:
        unknown = ({*leaf.complements} - {*by_name} | {*leaf.audience} - {*AUDIENCES}
                   | {leaf.season} - {*SEASONS} | {*leaf.tags} - {*PERSON_FACTS})
        if unknown:
            raise ValueError(f"taxonomy.csv, {leaf.name}: {unknown} are not known")
    for rule in rules:
        if {*rule.when} - {*FACTS}:
            raise ValueError(f"knowledge.csv, {rule.name}: {rule.when} are not facts")
        for name, feature in rule.needs:
            if name not in by_name or feature and feature not in by_name[name].features:
                raise ValueError(f"knowledge.csv, {rule.name}: {name}:{feature} is "
                                 "not in taxonomy.csv")
    for city in cities:
        if not len(city.temperature) == len(city.humidity) == len(city.rain) == 12:
            raise ValueError(f"cities.csv, {city.name}: expected twelve months")
