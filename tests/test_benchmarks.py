"""Benchmarks start, rest on what is public, and leave no large tables in the repository."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
import traceback
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
    # guards/files: float beside the file, its answers compared as a verification does.
    "export.float_twin", "export.onnx_read", "export.rounding",
    # guards/zoo: a file verified on batches of one's own sizes.
    "export.verify", "export.verified",
    # guards/descent: the loops beside the operations of torch.
    "numerics.coordinate", "numerics.gram",
    # study/targets: which runtimes are installed.
    "export.runtimes",
    # study/peers: when evaluation begins.
    "engine.progress",
    # study/paper/figure2: the parts of a method, one at a time.
    "methods.adaquant", "methods.catalogue",
    # study/rows, study/need: units solved from more and fewer rows.
    "graph.kept", "graph.replay", "graph.units", "methods.quadratic", "numerics.affine",
    "numerics.ranges", "solving", "solving.work",
    # study/quick: the rank correlation of two tables.
    "sensitivity.estimate",
    # study/paper/stages: one menu solved on seven eighths of the samples, tuned in several ways.
    "pipeline.check", "pipeline.job", "pipeline.plan", "pipeline.tabulate", "sensitivity.table",
    "sources.data",
    # guards/device: whether there is a device.
    "engine.device",
    # guards/forecast: the stages that are foretold, one run of each.
    "engine.random_state", "pipeline.outlook", "pipeline.quantize", "pipeline.run",
    "pipeline.within_time",
    # guards/onnx_files, guards/onnx_samples: what was understood of a file, samples of its kind.
    "graph.interface", "sources.images", "sources.models", "sources.onnx_data",
    "sources.onnx_in.agree", "sources.onnx_in.example", "sources.onnx_in.imported",
    "sources.photos",
    # study/answers: networks judged by today's loss and by every output's.
    "evaluation.compare", "evaluation.forward", "evaluation.metrics", "sources.batches",
    # study/equalize: the divergence of softened answers.
    "numerics.losses",
    # study/mend: the parts of a mending.
    "pipeline.mend_file",
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


def start(name: str, output: Path) -> int:
    """The exit code of `python -m NAME --help`, in a child that has torch in memory already."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.chdir(ROOT)
            sys.path.insert(0, str(ROOT))
            sys.argv = [name, "--help"]
            with output.open("w") as sys.stdout:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # noqa: BLE001 - a child must not run on into its parent's tests
            output.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


SCRIPTS = [p for p in FILES if is_script(p)]


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_every_script_starts(path, tmp_path):
    """All its modules are imported and it says what it takes."""
    code = start(name_of(path), tmp_path / "said")
    said = (tmp_path / "said").read_text()
    assert code == 0 and "usage:" in said, said


def test_a_script_starts_by_its_path():
    """As a process of its own and without `-m`."""
    (script,) = (p for p in SCRIPTS if p.stem == "sameness")
    found = subprocess.run(
        [sys.executable, str(script), "--help"],
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
