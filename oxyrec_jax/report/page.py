"""One self-contained HTML file: everything inline, nothing loaded from a network."""

import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.offline

from oxyrec_jax import __version__, artifacts
from oxyrec_jax.base import InputError
from oxyrec_jax.data.dataset import Dataset
from oxyrec_jax.report import sections, style
from oxyrec_jax.report import semantic_ids as semantic_ids_section
from oxyrec_jax.report.fragments import Html, raw, tag
from oxyrec_jax.tokenizer import sid_table

# Whatever a title or a library may try, the browser loads nothing. Charts drawn by the
# graphics card compile their programs at run time, hence 'unsafe-eval'.
_POLICY = ("default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
           "style-src 'unsafe-inline'; img-src data: blob:")
_LEADS = {
    "summary": ("Summary", "What this run achieved, and whether it beats "
                "recommenders that learn nothing."),
    "results": ("Results", "The model beside untrained baselines on the same targets, "
                "with the uncertainty of every figure."),
    "training": ("Training", "How the loss and the validation figures moved."),
    "semantic-ids": ("Semantic IDs", "The codes that stand for items: the vocabulary "
                     "in which the model writes its recommendations."),
    "examples": ("Examples", "What single users get to see."),
    "provenance": ("Configuration and provenance", "Everything needed to make these "
                   "figures again."),
    "glossary": ("Glossary", "The terms of this page."),
}


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    results: Mapping[str, Mapping[str, Any]] | None = None,
    training: Sequence[Mapping[str, Any]] | None = None,
    semantic_ids: str | os.PathLike | None = None,
    dataset: Dataset | None = None,
    examples: Sequence[sections.Example] = (),
    facts: Mapping[str, Any] | None = None,
    following: Mapping[str, Mapping[str, Any]] | None = None,
) -> pathlib.Path:
    """Writes the report; whatever is not given is said to be missing.

    Args:
      path: the HTML file; its folder must exist.
      title: of the page.
      results: a name such as "Beauty, test" to what `evaluate` returned as results;
        the first fills the summary.
      training: entries of the training log, each with "step" and any figures; names
        with "loss" in them and names with "@" get charts of their own.
      semantic_ids: folder of the semantic-ID bundle.
      dataset: for the items' titles, and its manifest for the provenance.
      examples: users to show.
      facts: configuration, versions, timings …; each nested mapping is a table of its
        own. Numbers under "timings" also become cards.
      following: a name to what `workflow.follow` returned.

    Returns:
      The path.

    Raises:
      InputError: a damaged bundle, one made from another data set, an example that
        names an unknown item, or a file that cannot be written.
    """
    results, facts = results or {}, facts or {}
    sids = (None if semantic_ids is None
            else sid_table.load_semantic_ids(semantic_ids, dataset))
    names = None if dataset is None else names_of(dataset, sids)
    titles = None if names is None else names.titles
    _check_examples(examples, len(titles or ()) if sids is None else len(sids.codes))
    content = {
        "summary": sections.summary(results, sids, facts),
        "results": sections.evaluation(results, following or {}),
        "training": sections.training(training),
        "semantic-ids": semantic_ids_section.section(sids, names),
        "examples": sections.examples(examples, titles, sids),
        "provenance": sections.provenance(
            facts, results, None if dataset is None else dataset.manifest),
        "glossary": sections.glossary(),
    }
    first: Mapping[str, Any] = next(iter(results.values()), {})
    manifest: Mapping[str, Any] = {} if dataset is None else dataset.manifest
    return write_page(path, title, content, _LEADS, {
        label: first.get(key) or manifest.get(key)
        for label, key in (("data", "source"), ("protocol", "protocol"),
                           ("ties", "tie_policy"), ("split", "split"))})


def names_of(dataset: Dataset, sids: sid_table.SemanticIds | None
             ) -> semantic_ids_section.Names:
    """Titles and categories of all items, those that joined the table later included.

    Text or the item's own id stands where there is no title.
    """
    items = (dataset.item_table() if sids is None else
             sid_table.catalogue_table(dataset, sids))
    columns = [items[name].to_pylist() for name in ("title", "text", "item_id")]
    return semantic_ids_section.Names(
        [title or (text or "")[:120] or str(name)
         for title, text, name in zip(*columns)], items["category"].to_pylist())


def write_page(path: str | os.PathLike, title: str,
               content: Mapping[str, Sequence[Html]],
               leads: Mapping[str, tuple[str, str]],
               told: Mapping[str, Any] = types.MappingProxyType({})) -> pathlib.Path:
    """Writes a whole page.

    Args:
      path: the HTML file; its folder must exist.
      title: its heading.
      content: the pieces of each section, by name.
      leads: heading and leading sentence of each section.
      told: short facts below the title, by name; what is None is left out. The release
        that wrote the page comes last.

    Returns:
      The path.

    Raises:
      InputError: the file cannot be written.
    """
    pills = [tag("li", f"{name} ", tag("b", value))
             for name, value in {**told, "oxyrec_jax": __version__}.items()
             if value is not None]
    target = pathlib.Path(path)
    with artifacts.open_atomic(target, "w") as file:
        file.write(_render(title, content, leads, tag("ul", pills, class_="pills")))
    return target


def _check_examples(examples: Sequence[sections.Example], items: int) -> None:
    for example in examples:
        named = [*example.history, *example.items]
        named += [] if example.target is None else [example.target]
        if items and named and (max(named) >= items or min(named) < -1):
            raise InputError(f"the example of user {example.user!r} names item "
                             f"{max(named)}, but there are {items} items")


def _render(title: str, content: Mapping[str, Sequence[Html]],
            leads: Mapping[str, tuple[str, str]], pills: Html) -> str:
    """The text of the file."""
    parts = [tag("section", tag("h2", leads[name][0]),
                 tag("p", leads[name][1], class_="lead"), list(pieces), id=name)
             for name, pieces in content.items()]
    links = [tag("a", leads[name][0], href=f"#{name}") for name in content]
    head = tag(
        "head", tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title), tag("style", raw(style.CSS)))
    body = tag(
        "body", tag("header", tag("h1", title), pills), tag("nav", tag("div", links)),
        tag("main", parts),
        tag("footer", tag("p", "Charts need a browser with scripts switched on; tables "
                          "and words do not. This file loads nothing from a network.")),
        tag("script", raw(plotly.offline.get_plotlyjs())),
        tag("script", raw(style.SCRIPT)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
