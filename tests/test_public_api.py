"""What others build on does not change unnoticed: names, signatures, fields.

The modules are those of the reference in docs/reference. To accept a change:

    python tests/test_public_api.py       # writes tests/public_api.txt anew

and tell callers in CHANGELOG.md what to change.
"""

import ast
import difflib
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
LISTED = ROOT / "tests" / "public_api.txt"


def modules():
    """Dotted names of the modules that the reference documents, below the package."""
    found = {name for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
             for name in re.findall(r"automodule:: oxyrec_jax\.(\S+)",
                                    page.read_text("utf-8"))}
    return sorted(found)


def file_of(module):
    place = (ROOT / "oxyrec_jax").joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def public(module):
    """Lines of a module's public names: signature of a function, fields and public
    methods of a class. Read from the source, so that no release of anything shows."""
    tree = ast.parse(file_of(module).read_text("utf-8"))
    named = next((ast.literal_eval(node.value) for node in tree.body
                  if isinstance(node, ast.Assign)
                  and ast.unparse(node.targets[0]) == "__all__"), None)
    lines = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and named:
            for alias in node.names:
                if alias.name in named:
                    source = str(node.module).removeprefix("oxyrec_jax.")
                    lines += found_in(source, alias.name, module)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and (
                not node.name.startswith("_") if named is None else node.name in named):
            lines += told(node, module)
    return lines


def found_in(source, name, module):
    for node in ast.parse(file_of(source).read_text("utf-8")).body:
        if getattr(node, "name", None) == name:
            return told(node, module)
    return [f"{module}.{name}"]  # a constant, or imported once more


def told(node, module):
    """A function as one line, a class as one line for each field and method."""
    if isinstance(node, ast.FunctionDef):
        return [f"{module}.{signature(node)}"]
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    name = f"{module}.{node.name}"
    lines = [f"{name}({bases})" if bases else name]
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and ast.unparse(part.target)[0] != "_":
            lines.append(f"{name}.{' '.join(ast.unparse(part).split())}")
        elif isinstance(part, ast.FunctionDef) and (
                not part.name.startswith("_") or part.name in ("__init__", "__call__")):
            lines.append(f"{name}.{signature(part)}")
    return lines


def signature(node):
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def everything():
    return [line for module in modules() for line in public(module)]


def test_the_public_api_is_as_listed():
    listed, now = LISTED.read_text("utf-8").splitlines(), everything()
    changes = [line for line in difflib.unified_diff(
        listed, now, "tests/public_api.txt", "the code", lineterm="", n=0)
        if not line.startswith("@@")]
    assert not changes, ("the public API has changed; if that is meant, run `python "
                         "tests/test_public_api.py` and tell it in CHANGELOG.md:\n"
                         + "\n".join(changes))


def test_the_list_names_every_part_a_newcomer_asks_for():
    parts = {module.split(".")[0] for module in modules()}
    assert {"losses", "metrics", "models", "decode", "tokenizer", "data", "train",
            "rewards", "evaluate", "parallel", "workflow", "config"} <= parts
    lines = everything()
    assert len(lines) == len(set(lines))
    assert any(line.startswith("losses.grpo_loss(log_probs: Array") for line in lines)
    assert any(line.startswith("decode.beam.beam_search(") for line in lines)
    assert "base.Weighted.total: Array" in lines
    assert not [line for line in lines if "._" in line and ".__" not in line]


if __name__ == "__main__":
    LISTED.write_text("\n".join(everything()) + "\n", encoding="utf-8")
    print(f"{LISTED.relative_to(ROOT)}: {len(everything())} lines")
