"""Benchmarks start, rest on what is public, and leave no large tables in the repository."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
FILES = sorted(BENCHMARKS.rglob("*.py"))
# What benchmarks may know beside `import bitwright as bw`, and what for.
INTERNAL = {
    # guards/allocate: tables that nobody measured, and what `bitwright frontier` and `explain` do.
    "allocation.cost", "allocation.explain", "allocation.frontier", "allocation.question",
    "allocation.table", "graph.choice",
    # guards/engine: the loop over the nodes that calibrates, and the heap's setting.
    "engine.memory", "graph.execute",
    # saturating, guards/portable: a simulation's integers on another processor.
    "export.certificate", "graph.custom_ops", "graph.model_graph", "graph.rows", "graph.sites",
    "graph.simulate",
    # guards/zoo: a file verified on batches of one's own sizes.
    "export.verify",
    # study/peers: when evaluation begins.
    "engine.progress",
    # study/paper/figure2: the parts of a method, one at a time.
    "methods.adaquant", "methods.catalogue",
    # study/paper/stages: one menu solved on seven eighths of the samples, tuned in several ways.
    "pipeline.check", "pipeline.job", "pipeline.plan", "pipeline.tabulate", "sensitivity.table",
    "sources.data",
}  # fmt: skip
LARGEST_TABLE = 30_000


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] in ("__init__", "__main__") else parts)


def is_script(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text()


def internal_imports(path: Path) -> set[str]:
    return {
        node.module.removeprefix("bitwright.")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bitwright.")
    }


def test_benchmarks_rest_on_what_is_public():
    used = {path: internal_imports(path) for path in FILES}
    for path, names in used.items():
        assert names <= INTERNAL, f"{name_of(path)} imports {sorted(names - INTERNAL)}"
    assert set().union(*used.values()) == INTERNAL


def test_no_code_hides_in_texts():
    """Scripts that are written out and run see the public package alone, too."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "from bitwright" not in node.value, f"{path}:{node.lineno}"


def test_large_tables_are_not_in_the_repository():
    for path in BENCHMARKS.rglob("*.csv"):
        assert path.stat().st_size <= LARGEST_TABLE, f"{path.name}: {path.stat().st_size} bytes"


@pytest.mark.parametrize("path", [p for p in FILES if is_script(p)], ids=name_of)
def test_every_script_starts(path):
    """All its modules are imported and it says what it takes; one is run without `-m` as well."""
    script = [str(path)] if path.stem == "sameness" else ["-m", name_of(path)]
    found = subprocess.run(
        [sys.executable, *script, "--help"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert "usage:" in found.stdout


def test_every_folder_has_a_place():
    """Guards end in a bound and an exit code; studies write pages; nothing else stands beside."""
    folders = {p.name for p in BENCHMARKS.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == {"guards", "study", "results"}
    for path in (BENCHMARKS / "guards").rglob("*.py"):
        if is_script(path):
            text = path.read_text()
            assert "sys.exit(" in text or "raise SystemExit" in text, f"{path.name} has no bound"
