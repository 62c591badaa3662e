"""Text: `python -m benchmarks.study.text --data-root DIR [--only stsb ...] [--again]`.

A sentence encoder of six layers (all-MiniLM-L6-v2, from its PyPI package) is quantised on 128
unlabelled texts, none of them in a test set, and then

    stsb    ranks the pairs of the STS-B test set (Spearman), at several schemes;
    probe   gives features to a linear probe on AG News and SST-2 that was fitted on float features;
    qa      answers questions on paragraphs that its head was not trained on (F1 of SQuAD 1.1);
    speed   runs in ONNX Runtime beside its float self, batches of 1 and 16, 64 tokens;
    base    a network of BERT-base's size (random weights): memory and time of the light pipeline.

Rows that are in benchmarks/results/text.csv already are not measured again. Writes that file and
the figures of docs/measured/text.md. `--dev` ranks held-out pairs of the development set instead
and writes nothing: what recipes are chosen by.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import bitwright as bw
from benchmarks.study.text_parts import (
    base_size,
    encoder_folder,
    exact_matches,
    features,
    linear_probe,
    question_network,
    runtime_speed,
)
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    machine,
    markdown,
    put_between_markers,
    read_csv,
    write_csv,
)
from bitwright.pipeline.result import Result
from bitwright.sources.batches import Dataset
from bitwright.sources.models import LoadedModel, load_model
from bitwright.sources.text import jsonl_dataset

CSV, PAGE = RESULTS / "text.csv", MEASURED / "text.md"
Row = dict[str, Any]
CALIBRATION = 128
SHARES = {"stsb_dev": 64, "agnews_dev10k": 32, "sst2_train_20k": 32}
DEV_PAIRS = 500
# By name: what is asked of the recipe. Chosen by --dev, on the development set of STS-B.
RECIPES: dict[str, dict[str, Any]] = {
    "w8a8": {"scheme": "w8a8", "prepare": "smooth"},
    "w8a8 plain": {"scheme": "w8a8"},
    "w4a8": {"scheme": "w4a8", "prepare": "smooth", "method": "quadratic"},
    "w4a8 plain": {"scheme": "w4a8", "method": "quadratic"},
    "w4a4": {"scheme": "w4a4", "prepare": "smooth", "method": "quadratic", "tune": "bias"},
    "w4a4 plain": {"scheme": "w4a4", "method": "quadratic"},
    "mixed": {
        "menu": "w{2,3,4,8}a8", "budget": "size<=0.14", "prepare": "smooth",
        "method": "quadratic", "mode": "parallel", "tune": "refine", "table_samples": 32,
        "refine_method": "quadratic",
    },
}  # fmt: skip
STSB = tuple(RECIPES)
TARGETS = ("ort-cpu", "ort-linear")
PROBES = {
    "agnews": ("agnews_dev10k", "agnews_test", 2000, 2000),
    "sst2": ("sst2_train_20k", "sst2_validation", 4000, 872),
}


def lines_of(root: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file of the data folder, in an order of our own."""
    text = (root / "text" / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    random.Random(0).shuffle(rows)
    return rows


def text_of(row: dict[str, Any]) -> str:
    return str(row.get("text") or row.get("sentence") or row.get("sentence1"))


class Bench:
    """The encoder, its data as files, and the quantised encoders made so far."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.encoder = load_model(f"hf:{encoder_folder(folder)}")
        self.quantised = lru_cache(maxsize=2)(self._quantised)

    def file(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return path

    def data(self, path: Path, source: LoadedModel | None = None) -> Dataset:
        return jsonl_dataset(path, (source or self.encoder).preprocess)

    def calibration(self) -> Dataset:
        """128 texts of three kinds, none of a test set, without labels."""
        texts = [
            {"text": text_of(row)}
            for name, count in SHARES.items()
            for row in lines_of(self.root, name)[:count]
        ]
        assert len(texts) <= CALIBRATION
        random.Random(1).shuffle(texts)
        return self.data(self.file("calibration", texts))

    def pairs(self, dev: bool) -> Dataset:
        """Pairs with scores: of the test set, or those of the development set that none saw."""
        rows = lines_of(self.root, "stsb_dev" if dev else "stsb_test")
        return self.data(
            self.file("pairs", rows[SHARES["stsb_dev"] :][:DEV_PAIRS] if dev else rows)
        )

    def _quantised(self, recipe: str, target: str, dev: bool) -> tuple[Result, float]:
        module = self.encoder.module
        module.example_inputs = self.encoder.example_inputs
        started = time.process_time()
        result = bw.quantize(
            module,
            self.calibration(),
            evaluation=self.pairs(dev),
            metric="spearman",
            target=target,
            **RECIPES[recipe],
        )
        return result, time.process_time() - started


def stsb(bench: Bench, name: str, dev: bool = False) -> Row:
    """Spearman's correlation before and after, and what it took."""
    result, seconds = bench.quantised(name, "paper", dev)
    metrics = result.metrics
    with tempfile.TemporaryDirectory() as folder:
        size = 0.0 if dev else result.save(Path(folder) / "run").read_json("metrics.json")["size"]
    weights = sum(row["params"] for row in result.census["units"])
    bits = sum(row["params"] * (row["w_bits"] or 32) for row in result.census["units"])
    return {
        "float": metrics["float"]["spearman"],
        "quantized": metrics["quantized"]["spearman"],
        "cosine": metrics["agreement"],
        "noise": metrics["relative_noise"],
        "weight_bits": bits / weights,
        "size": size["ratio"] if size else bits / weights / 32,
        "samples": metrics["samples"],
        "processor_seconds": seconds,
    }


def probe(bench: Bench, name: str) -> Row:
    """A linear probe fitted on float features, given float and quantised ones."""
    task, recipe = name.split()
    train, test, most, count = PROBES[task]
    # Texts of the calibration are not fitted on.
    fit = lines_of(bench.root, train)[SHARES[train] :][:most]
    held = lines_of(bench.root, test)[:count]
    classes = {c: i for i, c in enumerate(sorted({str(row["label"]) for row in fit}))}
    result, _ = bench.quantised(recipe, "paper", False)
    made = [
        features(result, result.graph.module if module is None else module, bench.data(path))
        for module, path in (
            (None, bench.file("fit", [{"text": text_of(r)} for r in fit])),
            (None, bench.file("held", [{"text": text_of(r)} for r in held])),
            (result.model, bench.folder / "held.jsonl"),
        )
    ]
    labels = [[classes[str(row["label"])] for row in rows] for rows in (fit, held)]
    before, after, same = linear_probe(made, labels)
    return {"float": before, "quantized": after, "agreement": same, "samples": len(held)}


def qa(bench: Bench, name: str) -> Row:
    """F1 and exact match on paragraphs that the head was not trained on."""
    source, held, texts, seconds = question_network(bench.root, bench.folder, bench.encoder)
    module = source.module
    module.example_inputs = source.example_inputs
    data = bench.data(bench.file("qa_calibration", texts), source)
    answers = bench.data(bench.file("qa_held", held), source)
    result = bw.quantize(module, data, evaluation=answers, metric="f1", **RECIPES[name])
    exact = exact_matches(result, answers)
    return {
        "train_seconds": seconds,
        "float": result.metrics["float"]["f1"],
        "quantized": result.metrics["quantized"]["f1"],
        "exact_float": exact["float"]["exact_match"],
        "exact_quantized": exact["quantized"]["exact_match"],
        "agreement": result.metrics["agreement"],
        "samples": len(held),
    }


def speed(bench: Bench, name: str) -> Row:
    """Median processor milliseconds in ONNX Runtime, float and w8a8 by turns."""
    asked, batch = name.split(" batch ")
    recipe, target = asked.split(" ")
    result, _ = bench.quantised(recipe, target, False)
    return runtime_speed(result, int(batch), 64) | {
        "spearman": result.metrics["quantized"]["spearman"]
    }


def base(_: Bench, name: str) -> Row:
    """In a process of its own: peak memory and seconds of the light pipeline."""
    return base_size(name)


PARTS: dict[str, tuple[Callable[..., Row], tuple[str, ...]]] = {
    "stsb": (stsb, STSB),
    "probe": (probe, tuple(f"{t} {r}" for r in ("w8a8", "w4a8") for t in PROBES)),
    "qa": (qa, ("w8a8",)),
    "speed": (speed, tuple(f"w8a8 {t} batch {n}" for t in TARGETS for n in (1, 16))),
    "base": (base, ("light",)),
}


def page(rows: list[Row]) -> str:
    """The tables of docs/measured/text.md."""
    by_name = {(row["part"], row["name"]): row for row in rows}
    of = {
        part: [by_name[part, name] for name in names if (part, name) in by_name]
        for part, (_, names) in PARTS.items()
    }
    shared = {"": "{name}", "float": "{float:.2%}", "quantized": "{quantized:.2%}"}
    return "\n\n".join(
        [
            "**STS-B, test set** (Spearman; cosine with the float embeddings)\n\n"
            + markdown(of["stsb"], {
                **shared, "cosine": "{cosine:.4f}", "noise": "{noise:.3f}",
                "weight bits": "{weight_bits:.2f}", "size": "{size:.3f}",
                "processor s": "{processor_seconds:.0f}",
            }),
            "**Linear probes** (accuracy; the probe is that of the float features)\n\n"
            + markdown(of["probe"], {**shared, "same answer": "{agreement:.2%}", "n": "{samples}"}),
            "**Questions** (F1 and exact match as SQuAD 1.1 defines them)\n\n"
            + markdown(of["qa"], {
                **shared, "exact, float": "{exact_float:.2%}", "exact": "{exact_quantized:.2%}",
                "n": "{samples}",
            }),
            "**ONNX Runtime** (one thread, median processor ms, 64 tokens)\n\n"
            + markdown(of["speed"], {
                "": "{name}", "float": "{float_ms:.2f}", "quantized": "{quantized_ms:.2f}",
                "ratio": "{ratio:.2f}", "Spearman": "{spearman:.2%}",
            }),
            "**BERT-base's size** (12 layers of 768, random weights, 128 texts of 128 tokens)\n\n"
            + markdown(of["base"], {
                "": "{name}", "peak MB": "{peak_mb:.0f}", "processor s": "{processor_seconds:.0f}",
                "weight bits": "{weight_bits:.2f}", "cosine": "{cosine:.4f}",
            }),
            f"Measured on {machine('torch', 'onnxruntime', 'transformers')}.",
        ]
    )  # fmt: skip


def wanted(only: list[str]) -> Iterator[tuple[str, str]]:
    for part, (_, names) in PARTS.items():
        for name in names:
            if not only or part in only or f"{part}:{name}" in only:
                yield part, name


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", default="data", help="holds text/*.jsonl")
    parser.add_argument("--only", nargs="+", default=[], help="parts, or PART:NAME")
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    parser.add_argument("--dev", action="store_true", help="stsb on development pairs; no file")
    options = parser.parse_args()
    root = Path(options.data_root).absolute()
    if not (root / "text").is_dir():
        print(f"skipped: --data-root {root} has no folder text/. It is not part of the repository.")
        return 0
    rows = read_csv(CSV)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(root, Path(folder))
        for part, name in wanted(options.only):
            if options.dev:
                if part == "stsb":
                    print(name, json.dumps(stsb(bench, name, dev=True)), flush=True)
                continue
            known = [r for r in rows if (r["part"], r["name"]) == (part, name)]
            if known and not options.again:
                continue
            row = {"part": part, "name": name, **PARTS[part][0](bench, name)}
            rows = [r for r in rows if r not in known] + [row]
            print(json.dumps(row), flush=True)
            write_csv(CSV, rows)
            put_between_markers(PAGE, page(rows))
    if not options.dev:
        put_between_markers(PAGE, page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
