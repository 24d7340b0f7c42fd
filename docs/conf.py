"""The documentation site: `make docs` builds it, without network.

Sphinx with MyST reads the Markdown pages as they stand for GitHub, so that no page is
written twice, and autodoc reads the docstrings; furo shows both.
"""

import re

import oxyrec_jax

project = "oxyrec_jax"
release = oxyrec_jax.__version__
copyright = "the oxyrec_jax authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
              "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"oxyrec_jax {release}"
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}
myst_heading_anchors = 4
default_role = "literal"  # a backtick is code in docstrings as in Markdown
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_use_rtype = False
# Types of fields that autodoc cannot name; nothing is linked outside of the site.
nitpicky = False

_SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:")


def as_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring in the style of the house.

    There a backtick is code, an indented block after an empty line is shown as it
    stands, and no other sign means anything.
    """
    found: list[str] = []
    literal: int | None = None  # indent of the text that a block belongs to
    for line in lines:
        indent = len(line) - len(line.lstrip())
        before = next((one for one in reversed(found) if one.strip()), "")
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and line.strip() and found and not found[-1].strip():
            outer = len(before) - len(before.lstrip())
            listed = before.lstrip().startswith(("- ", "* "))
            if indent > outer and before.strip() not in _SECTIONS and not listed:
                found += [" " * outer + "::", ""]
                literal = outer
        found.append(line if literal is not None else _escaped(line))
    lines[:] = found


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    for place in range(0, len(parts), 2):
        text = re.sub(r"([*|])", r"\\\1", parts[place])
        parts[place] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
    return "".join(parts)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_text, priority=100)
