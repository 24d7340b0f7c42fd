"""The page of a tokenizer build: every quality figure explained; the same as JSON."""

import os
import pathlib
from typing import Any

import numpy as np

from oxyrec_jax import artifacts
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.report import fragments, page, sections, semantic_ids
from oxyrec_jax.report.fragments import Html, tag
from oxyrec_jax.tokenizer import sid_table

_LEADS = {
    "summary": ("Summary", "What came out, and whether it keeps the bounds that were "
                "asked of it."),
    "figures": ("Figures", "Lists hold one value for each level or prefix length, the "
                "first one first."),
    **semantic_ids.LEADS,
    "provenance": ("Configuration and provenance", "Everything needed to make these "
                   "semantic IDs again."),
}


def write_tokenizer_page(path: str | os.PathLike, bundle: str | os.PathLike,
                         dataset: Dataset, *, title: str = "Semantic IDs"
                         ) -> pathlib.Path:
    """Writes the page, and the same as JSON in the file beside it that ends in .json.

    Args:
      path: the HTML file; its folder must exist.
      bundle: folder of the semantic-ID bundle.
      dataset: the data set that it was made for.
      title: of the page.

    Returns:
      The path. The JSON holds `quality`, `gate`, `code_map` (`code`, `items`, `x`,
      `y`, `purity`, `category` of each first code, and `kept`; None for imported IDs)
      and `samples`, see `code_map.prefix_samples`, with titles in place of ids.

    Raises:
      InputError: a damaged bundle, one made from another data set, or a file that
        cannot be written.
    """
    sids = sid_table.load_semantic_ids(bundle, dataset)
    names = page.names_of(dataset, sids)
    content = {
        "summary": [*semantic_ids.verdict(sids),
                    fragments.cards(_cards(sids))],
        "figures": [semantic_ids.figures_table(sids)],
        **semantic_ids.chapters(sids, names),
        "provenance": _provenance(sids, dataset)}
    artifacts.write_json(pathlib.Path(path).with_suffix(".json"), _values(sids, names))
    return page.write_page(path, title, content, _LEADS, {
        "data": dataset.manifest.get("source"), "items": f"{len(sids.codes):,}",
        "codes": " × ".join(str(width) for width in sids.widths)})


def _cards(sids: sid_table.SemanticIds) -> list[tuple[str, str, str, str]]:
    figures, shown = sids.manifest["quality"], semantic_ids.cards(sids)
    for key, name, more in (
            ("coverage", "Codes in use, least level", "of a level's codes, at least"),
            ("purity", "Purity of the first code", "of items are of its commonest "
             f"category; {figures.get('largest_category', 0):.0%} without codes")):
        if figures.get(key):
            value = min(figures[key]) if key == "coverage" else figures[key][0]
            shown.append((name, f"{value:.1%}", more, ""))
    found = figures.get("agreement")
    if found and found["lift"][0] is not None:
        shown.append(("Used together, same first code", f"×{found['lift'][0]:.1f}",
                      "as often as by chance", ""))
    return shown


def _provenance(sids: sid_table.SemanticIds, dataset: Dataset) -> list[Html]:
    facts = {name: value for name, value in sids.manifest.items()
             if name not in ("files", "quality", "gate")}
    return [tag("details", tag("summary", name), fragments.facts(values),
                open="" if not index else None)
            for index, (name, values) in enumerate((
                ("Semantic IDs", facts),
                ("Data set", sections.facts_of(dataset.manifest))))]


def _values(sids: sid_table.SemanticIds, names: semantic_ids.Names) -> dict[str, Any]:
    found = semantic_ids.first_codes(sids, names.categories)
    samples = [[{**step, "items": [names.titles[item] for item in step["items"]]}
                for step in branch] for branch in semantic_ids.samples(sids)]
    return {
        "quality": sids.manifest["quality"], "gate": sids.manifest["gate"],
        "code_map": None if found is None else {
            "code": found.codes.tolist(), "items": found.items.tolist(),
            "x": found.points[:, 0].tolist(), "y": found.points[:, 1].tolist(),
            "purity": [value if np.isfinite(value) else None
                       for value in found.purity.tolist()],
            "category": list(found.category), "kept": found.kept},
        "samples": samples}
