"""The pages that the code writes (recipes, api, results): `python tools/docs_pages.py`.

With `--check` nothing is written; the exit code is 1 where a page is not what the code says.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import bitwright
from bitwright.diagnosis.finding import Findings
from bitwright.engine.record import Record
from bitwright.evaluation.figures import Metrics
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census
from bitwright.recipe.values import BUILT_IN, Recipe, about
from bitwright.sources.onnx_in.table import TABLE

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 88
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):$")
NAMED = re.compile(r"^([\w*][\w*, .]*): (.*)$")
SIGN = "<!-- Written by tools/docs_pages.py from the code: `make pages`. -->\n\n"
INTRO = """# Recipes

A recipe is a file of options in TOML: everything that determines a run's result. Give a built-in
recipe's name or a file to `--recipe`; what is given beside it wins. `recipe.toml` of a run has
every key written out, and repeats the run. Which recipe to take: [pipelines](pipelines.md).

"""
API = """# API

What `import bitwright as bw` offers. How the stages go together:
[the stages by hand](architecture.md#the-stages-by-hand). Objects of your own:
[extending](extending.md).

"""

RESULTS = """# What a run says

`result.metrics`, `result.census` and what `result.verify()` gives are frozen values with typed
attributes. Each is also the mapping that its file is: `result.metrics.before` and
`result.metrics["float"]` are the same figures, the second as JSON has them. `to_json()` gives the
whole object, `from_json(...)` reads it and names the place of what is no such value. A key that
an older version did not write has a default. The files:

"""
OPERATORS = """# Operators of ONNX

The operators that an [ONNX file](onnx.md) is translated by, of opsets 7 to 26. An operator that is
not here, or in a form that is not translated, stays as it is, in float, and is run by ONNX Runtime.

"""
FILES: dict[str, type[Record]] = {
    "metrics.json": Metrics, "census.json": Census, "verify.json": Verification,
    "diagnosis.json": Findings,
}  # fmt: skip


def plain(text: str) -> str:
    """Text as Markdown shows it: `<` outside of code is no tag."""
    parts = text.split("`")
    return "`".join(p if i % 2 else p.replace("<", "&lt;") for i, p in enumerate(parts))


def sections(doc: str) -> Iterator[tuple[str, list[str]]]:
    """A docstring as named sections; what stands before the first has no name."""
    name, lines = "", list[str]()
    for line in doc.splitlines():
        found = SECTION.match(line)
        if found:
            yield name, lines
            name, lines = found[1], []
        elif name and line and not line.startswith(" "):
            yield name, lines
            name, lines = "", [line]
        else:
            lines.append(line)
    yield name, lines


def entries(lines: list[str]) -> list[tuple[str, str]]:
    """`name: text` entries of a section; lines that are indented further go on with one."""
    found: list[list[str]] = []
    for line in inspect.cleandoc("\n".join(lines)).splitlines():
        start = NAMED.match(line)
        if start:
            found.append([start[1], start[2]])
        elif found and line.strip():
            found[-1][1] += " " + line.strip()
        elif line.strip():
            found.append(["", line.strip()])
    return [(name, text) for name, text in found]


def described(doc: str) -> Iterator[str]:
    """A docstring as Markdown."""
    for name, lines in sections(inspect.cleandoc(doc)):
        text = inspect.cleandoc("\n".join(lines)).strip()
        if not text:
            continue
        if name.startswith("Example"):
            yield f"```pycon\n{text}\n```\n"
        elif name in ("Args", "Attributes", "Raises"):
            shown = [f"- `{n}`: {plain(t)}" if n else f"- {plain(t)}" for n, t in entries(lines)]
            yield f"**{name}**\n\n" + "\n".join(shown) + "\n"
        else:
            yield (f"**{name}** " if name else "") + plain(text) + "\n"


def argument(parameter: inspect.Parameter) -> str:
    """`name: type = default` as one writes it; a default that is an object shows as `...`."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {parameter.annotation}"
    default = parameter.default
    if default is parameter.empty:
        return text
    if isinstance(default, str):
        return f'{text} = "{default}"'
    simple = default is None or isinstance(default, (bool, int, float, tuple))
    return f"{text} = {default if simple else '...'}"


def signed(name: str, thing: Callable[..., Any]) -> str:
    """A signature, one argument a line where it is long."""
    signature = inspect.signature(thing)
    shown = list[str]()
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(s[0] == "*" for s in shown):
            shown.append("*")
        shown.append(argument(parameter))
    ends = None if inspect.isclass(thing) else signature.return_annotation
    after = "" if ends in (None, inspect.Signature.empty) else f" -> {ends}"
    line = f"{name}({', '.join(shown)}){after}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){after}"


def members(kind: type) -> Iterator[str]:
    """The public methods and properties that a class defines, a line each."""
    for name, value in vars(kind).items():
        inner = getattr(value, "__func__", None) or getattr(value, "fget", None)
        inner = inner or getattr(value, "func", None) or value
        if name.startswith("_") or not inspect.isfunction(inner) or not inner.__doc__:
            continue
        first = inspect.cleandoc(inner.__doc__).split("\n\n")[0].replace("\n", " ")
        called = "()" if inspect.isfunction(value) or hasattr(value, "__func__") else ""
        yield f"- `{name}{called}`: {plain(first)}"


def is_called(thing: object) -> bool:
    """Whether a user calls it: neither an error nor a protocol, which a user's class follows."""
    if inspect.isclass(thing):
        return not issubclass(thing, Exception) and not getattr(thing, "_is_protocol", False)
    return callable(thing)


def api() -> str:
    """docs/api.md: signature and docstring of every public name."""
    text = SIGN + API
    for name in bitwright.__all__:
        thing = getattr(bitwright, name)
        text += f"## {name}\n\n"
        if is_called(thing):
            text += f"```text\n{signed(name, thing)}\n```\n\n"
        doc = inspect.getdoc(thing) or ""
        if not doc.startswith(f"{name}("):
            text += "".join(f"{part}\n" for part in described(doc))
        found = list(members(thing)) if inspect.isclass(thing) else []
        if found:
            text += "**Members**\n\n" + "\n".join(found) + "\n\n"
    return text.rstrip() + "\n"


def keys() -> Iterator[str]:
    """The keys of a recipe, a row each; keys that share a description share the row."""
    defaults = {field.name: field.default for field in fields(Recipe)}
    kinds = {field.name: str(field.type) for field in fields(Recipe)}
    of_doc = dict(sections(inspect.getdoc(Recipe) or ""))["Attributes"]
    seen: list[str] = []
    for group, text in entries(of_doc):
        names = [name.strip() for name in group.split(",")]
        seen += names
        first = " ".join(f"`{name}`" for name in names)
        value = ", ".join(dict.fromkeys(shown(defaults[name]) for name in names))
        kind = ", ".join(dict.fromkeys(kinds[name] for name in names)).replace("|", "\\|")
        yield f"| {first} | {kind} | {value} | {plain(text)} |"
    missing = sorted(set(defaults) - set(seen))
    if missing:
        raise LookupError(f"Recipe's docstring says nothing of {', '.join(missing)}.")


def shown(value: object) -> str:
    """A default as a recipe's TOML has it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def recipes() -> str:
    """docs/recipes.md: what is built in, and every key."""
    text = SIGN + INTRO + "## Built in\n\n| recipe | what it does |\n| --- | --- |\n"
    text += "".join(f"| [`{n}`](#{n}) | {plain(about(n))} |\n" for n in BUILT_IN)
    text += "\n## Keys\n\n| key | type | default | what it is |\n| --- | --- | --- | --- |\n"
    text += "".join(f"{row}\n" for row in keys())
    text += "\n## The built-in files\n"
    for name in BUILT_IN:
        body = (resources.files("bitwright") / "recipe" / f"{name}.toml").read_text().strip()
        text += f"\n### {name}\n\n```toml\n{body}\n```\n"
    return text


def is_own(kind: object) -> bool:
    """Whether a class is a record of its own, and not one that only gathers others."""
    return inspect.isclass(kind) and issubclass(kind, Record) and bool(fields(kind))


def within(kind: type[Record], found: dict[type[Record], None]) -> None:
    """Add a record and those that stand inside it, in the order of the file."""
    if kind in found:
        return
    found[kind] = None
    todo = list(get_type_hints(kind).values())
    while todo:
        hint = todo.pop(0)
        todo[:0] = get_args(hint)
        if is_own(hint):
            within(hint, found)


def results() -> str:
    """docs/results.md: what the files of a run hold, attribute by attribute."""
    text = SIGN + RESULTS
    found = dict[type[Record], None]()
    for file, kind in FILES.items():
        text += f"- `{file}`: [`{kind.__name__}`](#{kind.__name__.lower()})\n"
        within(kind, found)
    for kind in found:
        own = {field.name: field for field in fields(kind)}
        text += f"\n## {kind.__name__}\n\n"
        text += "".join(f"{part}\n" for part in described(inspect.getdoc(kind) or ""))
        text += "| attribute | key | type |\n| --- | --- | --- |\n"
        for name, field in own.items():
            shown = str(field.type).replace("|", "\\|")
            key = field.metadata.get("key", name)
            key = "(its entries)" if field.metadata.get("flat") else f"`{key}`"
            text += f"| `{name}` | {key} | `{shown}` |\n"
    return text


def operators() -> str:
    """The operators of ONNX that are translated, and what becomes of each."""
    lines = [SIGN + OPERATORS]
    lines += [
        "| operator | opsets in which it changed | what becomes of it |",
        "| --- | --- | --- |",
    ]
    for name, entry in sorted(TABLE.items()):
        changes = ", ".join(map(str, entry.since))
        lines.append(f"| `{name}` | {changes} | {entry.fate} |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "recipes.md": recipes, "api.md": api, "results.md": results,
    "onnx_operators.md": operators,
}  # fmt: skip


def main(check: bool) -> int:
    """Write the pages, or say which are stale."""
    stale = 0
    for name, made in PAGES.items():
        page, text = DOCS / name, made()
        if page.is_file() and page.read_text() == text:
            continue
        if check:
            stale = 1
            sys.stderr.write(f"docs/{name} is not what the code says. Run `make pages`.\n")
        else:
            page.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
