"""What the documents say can be done: Python blocks run, command lines parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import docs_links
import docs_pages
import pytest
import typer

from bitwright.cli.parser import app
from bitwright.prepare.names import ABOUT
from bitwright.tuning.catalogue import STEPS
from test_architecture import LINES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bitwright"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, *languages: str) -> list[str]:
    if not path.is_file():
        return []
    return [text for kind, text in FENCE.findall(path.read_text()) if kind in languages]


def lines() -> list[tuple[str, str]]:
    """Every `bitwright ...` line of every document, continued lines joined, comments dropped."""
    found = []
    for path in DOCUMENTS:
        for block in blocks(path, "console", "bash", "sh", "shell", ""):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
                if words[:1] == ["bitwright"]:
                    found.append((path.name, shlex.join(words[1:])))
    return found


PYTHON = [(p, i, t) for p in DOCUMENTS for i, t in enumerate(blocks(p, "python"))]


ENCODER = "all-MiniLM-L6-v2"


def small_encoder(folder: Path) -> None:
    """Stands for the encoder that a reader has fetched."""
    transformers = pytest.importorskip("transformers", reason="the extra [text] is not installed")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in words[5:]]
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.3,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


@pytest.mark.parametrize(
    ("path", "source"),
    [pytest.param(p, t, id=f"{p.name}-{i}") for p, i, t in PYTHON],
)
def test_python_blocks_run(path, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if ENCODER in source:
        small_encoder(tmp_path / ENCODER)
    exec(compile(source, f"{path.name} block", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("document", "line"), lines())
def test_command_lines_parse(document, line):
    command = typer.main.get_command(app)
    words = shlex.split(line)
    if not words or words[0].startswith("-"):
        return
    assert words[0] in command.commands, f"{document}: no command {words[0]!r}"
    own = command.commands[words[0]]
    own.make_context(words[0], words[1:])


def test_every_link_leads_somewhere():
    assert not [line for page in docs_links.pages() for line in docs_links.broken(page)]


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_links, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A name, `code` (twice)\n## A name, code (twice)\n[a](#a-name-code-twice-1) "
        "[b](gone.md) [c](#nowhere) [d](https://example.org)\n```\n[e](gone.md)\n```\n"
    )
    assert [line.split(": ")[1] for line in docs_links.broken(page)] == ["gone.md", "#nowhere"]


@pytest.mark.parametrize("name", docs_pages.PAGES)
def test_pages_are_what_the_code_says(name):
    page = (ROOT / "docs" / name).read_text()
    assert page == docs_pages.PAGES[name](), f"docs/{name} is stale: run `make pages`"


def test_the_keys_name_every_step():
    keys = (ROOT / "docs" / "recipes.md").read_text().partition("## The built-in files")[0]
    for step in (*STEPS, *ABOUT):
        assert f"`{step}`" in keys


def test_architecture_shows_the_layer_rule():
    shown = "".join(f"    {line.replace(' __main__', '')}\n" for line in reversed(LINES))
    assert shown in (ROOT / "docs" / "architecture.md").read_text()


def test_architecture_names_every_folder():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for folder in PACKAGE.iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"| `{folder.name}/` |" in page


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if "measured" not in p.parts], ids=str)
def test_files_that_documents_name_are_there(path):
    for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|toml))`", path.read_text()):
        assert (PACKAGE / name).is_file() or (ROOT / name).is_file(), name
