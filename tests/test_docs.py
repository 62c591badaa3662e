"""What the documents say can be done: Python blocks run, command lines parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from bitwright.cli.parser import app

ROOT = Path(__file__).parents[1]
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
