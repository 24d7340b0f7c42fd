"""`oxyrec abtest`: trained runs and rules as arms of an online test in the shop."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oxyrec_jax import artifacts, progress
from oxyrec_jax.base import InputError
from oxyrec_jax.closed_loop import days as day_loop
from oxyrec_jax.closed_loop import keeping, policies, trial
from oxyrec_jax.closed_loop.context import history_of
from oxyrec_jax.closed_loop.figures import sums_of
from oxyrec_jax.closed_loop.served import generator_arm
from oxyrec_jax.closed_loop.splits import arms_of
from oxyrec_jax.data import shop
from oxyrec_jax.data.dataset import Dataset, load_dataset
from oxyrec_jax.evaluate import rows as split_rows
from oxyrec_jax.ready import load, parameters
from oxyrec_jax.report.ab_page import write_ab_page
from oxyrec_jax.train.parameters import read_params
from oxyrec_jax.workspace import Workspace, open_workspace

RULES = (*policies.INSIDERS, "popularity")
_DEFINITION = "abtest.json"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A test as it was asked for.

    Attributes:
      control: a work directory, `FOLDER:RUN`, or one of `RULES`.
      treatments: the same, one or more.
      shop: folder of the shop, prepared or a work directory; None: that of the first
        work directory among the arms.
      days: of the test.
      users: people of the log who take part; None: all.
      slate: items in a list; None: as many as the log shows.
      visiting: how often people come.
      design: how the test is judged.
      settings: changes of the experiments of the work directories.
    """

    control: str
    treatments: tuple[str, ...]
    shop: pathlib.Path | None = None
    days: int = 7
    users: int | None = None
    slate: int | None = None
    visiting: day_loop.Visiting = day_loop.Visiting()
    design: trial.Design = trial.Design()
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.treatments:
            raise InputError("the test has no treatment; give --treatment FOLDER or "
                             f"one of {', '.join(RULES)}")
        names = (self.control, *self.treatments)
        twice = [name for name in names[1:] if names.count(name) > 1]
        if twice and not (len(names) == 2 and self.design.paired):
            raise InputError(f"--treatment {twice[0]} stands in the test twice; the "
                             "control is compared with itself in every test anyway")
        if not 1 <= self.days <= 365:
            raise InputError(f"--days {self.days}: expected 1 to 365")
        if self.slate is not None and not 1 <= self.slate <= 20:
            raise InputError(f"--slate {self.slate}: expected 1 to 20")


@dataclasses.dataclass(frozen=True)
class _Opened:
    """The shop of a test, its people, and what all arms have in common."""

    dataset: Dataset
    built: shop.Shop
    slate: int
    users: int
    start: int


@dataclasses.dataclass(frozen=True)
class _Scene:
    """Where the arms serve: the people, the days that follow, what is in stock."""

    plan: Plan
    opened: _Opened
    people: shop.Visitors
    after: shop.Afterwards
    stock: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Entrant:
    """An arm, the digest of what serves it, and `[N]` bool what it has in stock."""

    arm: policies.Arm
    digest: str
    live: np.ndarray


def run(plan: Plan, workdir: pathlib.Path) -> dict[str, Any]:
    """Serves all arms day by day, or what is left of it, and judges them at the end.

    The horizon is fixed: nothing is judged before the last day, and a work directory
    keeps the test that it began with.

    Args:
      plan: the test.
      workdir: its folder; made if it is not there.

    Returns:
      JSON values, also in `results.json`: "control", "total" and "scenarios" (of the
      first treatment: figure to cell with lift, low and high), "treatments" (name to
      "total" and "scenarios"), "arms", "same" (the A/A test), "daily", "verdicts",
      "refused", "mode" and "page".

    Raises:
      InputError: an arm cannot be served, arms of different catalogues, or the folder
        holds another test.
    """
    opened = _open(plan)
    entrants = [_enter(name, plan, opened) for name in (plan.control,
                                                        *plan.treatments)]
    workdir.mkdir(parents=True, exist_ok=True)
    _claim(workdir, {
        "plan": _plain(plan), "shop": _digest(opened.dataset),
        "arms": {f"{place} {entrant.arm.name}": entrant.digest
                 for place, entrant in enumerate(entrants)}})
    people = keeping.kept_people(workdir / "people", opened.built)
    if people is None:
        people = day_loop.people_of_log(opened.dataset, opened.built, opened.users)
        keeping.keep_people(workdir / "people", people)
    stock = np.all([entrant.live for entrant in entrants], axis=0)
    scene = _Scene(plan, opened, people, shop.days_after(opened.built, plan.days),
                   stock)
    numbers = np.asarray(people.people.number)
    runs, seed = workdir / "runs", plan.visiting.seed
    everybody = np.ones(len(numbers), bool)
    control = entrants[0].arm
    counts = {control.name: _serve(scene, control, runs / "control", seed, everybody)}
    other = None
    if plan.design.paired:
        again = dataclasses.replace(control, name=f"{control.name}, other luck")
        other = sums_of(_serve(scene, again, runs / "other-luck", seed + 1, everybody))
    same = trial.same_against_same(sums_of(counts[control.name]), numbers,
                                   plan.design, len(entrants), other)
    if not same["passed"]:
        _log.warning("A/A failed: %s", same["why"])
    arm_of = arms_of(numbers, plan.design.name, len(entrants))
    for place, entrant in enumerate(entrants[1:], 1):
        arm = entrant.arm
        name = arm.name if arm.name not in counts else f"{arm.name} (again)"
        rows = everybody if plan.design.paired else arm_of == place
        counts[name] = _serve(scene, arm, runs / f"treatment{place}", seed, rows)
    found = _results(plan, opened, control.name, same,
                     trial.judge(counts, numbers, plan.design, same))
    artifacts.write_json(workdir / "results.json", found)
    page = write_ab_page(workdir / "report.html", found)
    return {**found, "page": str(page)}


def _results(plan: Plan, opened: _Opened, control: str, same: Mapping[str, Any],
             judged: Mapping[str, Any]) -> dict[str, Any]:
    treatments = {
        name: {"total": cells["total"],
               "scenarios": {scope: part for scope, part in cells.items()
                             if scope != "total"}}
        for name, cells in judged["treatments"].items()}
    first = next(iter(treatments.values()))
    return {
        "abtest": plan.design.name, "mode": "paired" if plan.design.paired else "split",
        "control": control, "users": opened.users, "days": plan.days,
        "slate": opened.slate, "level": plan.design.level, **first,
        "treatments": treatments, "arms": judged["arms"], "same": dict(same),
        "split_p": judged["split_p"], "daily": judged["daily"],
        "refused": judged["refused"], "verdicts": judged["verdicts"],
        "config": _plain(plan)}


def _serve(scene: _Scene, arm: policies.Arm, folder: pathlib.Path, seed: int,
           rows: np.ndarray) -> list[np.ndarray]:
    """The days of one arm, those that are kept and those that are left.

    Returns:
      Of each day `[U, scenarios, COUNTS]`; 0 of people who are not in `rows`, `[U]`.
    """
    plan, opened, cfg = scene.plan, scene.opened, scene.opened.built.cfg
    sequences = np.flatnonzero(rows)
    history = history_of(opened.dataset, sequences, arm.policy.history, opened.start)
    people = jax.tree.map(lambda a: a[sequences], scene.people)
    kept = keeping.Kept(folder, day_loop.begin(people, history))
    first_query = jnp.asarray(shop.query_texts(opened.built.known)[1])
    with progress.bar(f"days of {arm.name}", plan.days) as advance:
        advance(kept.day)
        for day in range(kept.day, plan.days):
            floor = day_loop.Floor(
                scene.after.world(day), jnp.asarray(day_loop.luck_of(cfg, seed)),
                first_query, jnp.asarray(scene.stock), jnp.int32(day),
                jnp.float32(plan.visiting.comes))
            kept.add(*day_loop.advance(arm, floor, kept.state, sequences,
                                       requests=plan.visiting.requests,
                                       candidates=cfg.candidates))
            advance(1)
    found = []
    for day in range(plan.days):
        part = kept.counts(day)
        found.append(np.zeros((len(rows), *part.shape[1:]), part.dtype))
        found[-1][rows] = part
    return found


def _open(plan: Plan) -> _Opened:
    folders = [_split(name)[0] for name in (plan.control, *plan.treatments)
               if name not in RULES]
    where = plan.shop or (folders[0] if folders else None)
    if where is None:
        raise InputError("no arm is a work directory, so that nobody knows which shop "
                         "is meant; give --shop FOLDER")
    where = where / "data" if (where / "data").exists() else where
    dataset, built = load_dataset(where), shop.load_shop(where)
    users = dataset.num_sequences if plan.users is None else plan.users
    slate = plan.slate or built.cfg.slate
    return _Opened(dataset, built, slate, users, built.cfg.first_midnight)


def _split(name: str) -> tuple[pathlib.Path, str]:
    """Folder and run of an arm."""
    if pathlib.Path(name).exists():
        return pathlib.Path(name), ""
    folder, colon, part = name.rpartition(":")
    if not colon or not pathlib.Path(folder).exists():
        raise InputError(f"{name} is no work directory and none of {', '.join(RULES)}; "
                         "expected a folder, FOLDER:RUN, or one of these")
    return pathlib.Path(folder), part


def _enter(name: str, plan: Plan, opened: _Opened) -> _Entrant:
    """Makes an arm of what the command line names."""
    cfg, slate = opened.built.cfg, opened.slate
    everything = np.ones(cfg.items, bool)
    if name in policies.INSIDERS:
        return _Entrant(policies.insider(name, cfg, slate), name, everything)
    if name == "popularity":
        counts = split_rows.popularity(split_rows.of_dataset(opened.dataset))
        best = np.argsort(-counts, kind="stable")[:slate].astype(np.int32)
        return _Entrant(policies.Arm(name, policies.Popular(slate), jnp.asarray(best)),
                        name, everything)
    folder, part = _split(name)
    space = open_workspace(folder, None, plan.settings)
    _same_catalogue(space, opened)
    texts = "query" if space.cfg.model.instructions.reasoning else None
    ready = load(space, live=True, instructions=texts)
    if ready.dataset.profiles is not None:
        _same_file(space, opened, "users.parquet", "people")
    if part and not part.removeprefix("seed").isdigit():
        source = _folder_of(space, part)
        params = read_params(source)[0]
    else:
        seed = int(part.removeprefix("seed")) if part else space.cfg.seeds[0]
        source, params = space.run(seed) / "best", parameters(space, ready, seed)
    arm = generator_arm(
        name, ready.model, params, ready.dataset, ready.catalogue, ready.leaves,
        slate=slate, beams=space.cfg.beams, recent=space.cfg.train.pipeline.history,
        start=opened.start, behaviour=space.cfg.instructions.behaviour)
    digest = artifacts.value_digest([
        artifacts.read_json(source / artifacts.MANIFEST), ready.ids.manifest["root"],
        space.cfg.beams])
    return _Entrant(arm, digest, ready.ids.live[:cfg.items])


def _folder_of(space: Workspace, part: str) -> pathlib.Path:
    for folder in (space.folder / part / "best", space.folder / part):
        if (folder / artifacts.MANIFEST).exists():
            return folder
    raise InputError(f"{space.folder}:{part}: no parameters in {space.folder / part}; "
                     "give the number of a seed, or a folder of the work directory "
                     "that holds a run")


def _same_catalogue(space: Workspace, opened: _Opened) -> None:
    if not space.data.exists():
        raise InputError(f"{space.data} is not there yet; run oxyrec prepare with "
                         f"--workdir {space.folder} first")
    _same_file(space, opened, "items.parquet", "catalogue")


def _same_file(space: Workspace, opened: _Opened, name: str, what: str) -> None:
    own = load_dataset(space.data, verify=False).manifest["files"][name]["sha256"]
    theirs = opened.dataset.manifest["files"][name]["sha256"]
    if own != theirs:
        raise InputError(
            f"{space.folder} has another {what} than {opened.dataset.folder}: {name} "
            f"has the digest {own} there and {theirs} here; compare runs that were "
            "trained on one shop")


def _claim(workdir: pathlib.Path, definition: Mapping[str, Any]) -> None:
    """Makes the folder that of this test; refuses another one's."""
    path = workdir / _DEFINITION
    if not path.exists():
        artifacts.write_json(path, definition)
        return
    there = artifacts.read_json(path)
    if artifacts.value_digest(there) != artifacts.value_digest(definition):
        odd = [part for part in definition if there.get(part) != definition[part]]
        raise InputError(
            f"{workdir} holds another test ({', '.join(odd)} differ); a test keeps the "
            "days, people and arms that it began with: give another --workdir")


def _digest(dataset: Dataset) -> str:
    return artifacts.value_digest(dataset.manifest["files"])


def _plain(plan: Plan) -> dict[str, Any]:
    values = dataclasses.asdict(plan)
    return {**values, "shop": None if plan.shop is None else str(plan.shop),
            "treatments": list(plan.treatments), "settings": list(plan.settings)}
