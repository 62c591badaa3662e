"""What is measured on a network's outputs, streaming: a batch at a time, one number at the end."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from scipy.stats import spearmanr
from torch import Tensor

from bitwright.errors import DataError, RecipeError, unknown
from bitwright.evaluation import class_metrics, squad
from bitwright.evaluation import number_metrics as numbers
from bitwright.evaluation import sequence_metrics as sequences
from bitwright.evaluation.detection_metrics import CocoMap
from bitwright.graph.answers import Outcome
from bitwright.graph.heads import EMBEDDING, LABELS, PROBABILITIES, SCORES, TOKENS
from bitwright.recipe.names import UNNAMED, refuse_unnamed
from bitwright.recipe.registered import load_registered
from bitwright.sources.guard import Foreign
from bitwright.sources.specs import load_object

MetricScore = Callable[[Any, Any], tuple[float, int]]


class Running(Protocol):
    """A metric on the way: takes in batches, gives one number at the end."""

    def add(self, outputs: Any, labels: Any) -> None:
        """Take in a batch of outputs."""

    def value(self) -> float | None:
        """The metric of all batches so far; None where nothing was counted."""


@dataclass
class Mean:
    """A metric that is the mean of a score of each row."""

    score: MetricScore
    total: float = 0.0
    count: int = 0

    def add(self, outputs: Any, labels: Any) -> None:
        """Take in a batch of outputs."""
        total, count = self.score(outputs, labels)
        self.total += total
        self.count += count

    def value(self) -> float | None:
        """Sum over count."""
        return self.total / self.count if self.count else None


@dataclass
class Spearman:
    """Spearman's rank correlation of what a network says of pairs with what people said.

    Equation: Pearson's correlation of the ranks, equal values sharing their mean rank. A network
    that reads both texts at once says one number; of a sentence encoder, which reads one after the
    other, it is the cosine of the two embeddings.
    Reference: Spearman 1904; Cer et al., arXiv 1708.00055 (STS benchmark).
    """

    said: list[float] = field(default_factory=list)
    true: list[float] = field(default_factory=list)
    waiting: dict[int, Tensor] = field(default_factory=dict)

    def add(self, outputs: Tensor, labels: Any) -> None:
        """Take in a batch; a text whose mate has not come yet waits."""
        if isinstance(labels, dict) and "pair" in labels:
            self._add_pairs(outputs, labels["pair"], labels["label"])
            return
        if not isinstance(labels, Tensor) or outputs.numel() != labels.numel():
            raise DataError(
                "the metric spearman needs pairs of texts with a number each, and outputs that are "
                f"one number a pair or an embedding a text; the outputs have shape "
                f"{tuple(outputs.shape)}. Give X.jsonl with sentence1, sentence2 and score."
            )
        self.said += outputs.reshape(-1).tolist()
        self.true += labels.reshape(-1).tolist()

    def _add_pairs(self, outputs: Tensor, pairs: Tensor, labels: Any) -> None:
        if not isinstance(labels, Tensor):
            raise DataError("the metric spearman needs a number as the score of each pair.")
        rows = torch.nn.functional.normalize(outputs.double().flatten(1), dim=-1)
        for number, row, label in zip(pairs.tolist(), rows, labels.tolist(), strict=True):
            mate = self.waiting.pop(number, None)
            if mate is None:
                self.waiting[number] = row
            else:
                self.said.append(float(mate @ row))
                self.true.append(label)

    def value(self) -> float | None:
        """The correlation of all pairs so far."""
        if len(self.said) < 2:
            return None
        return float(spearmanr(self.said, self.true).statistic)


@dataclass(frozen=True)
class Metric:
    """A name and a function (outputs, labels) -> (sum, count) whose quotient is the metric.

    `running` makes metrics that are no such quotient. `own` ones, the user's, are given the whole
    of what the network returned; those that read `whole` the outcome; the others the tensor that
    answers are read from, of several outputs the first of their `kinds`.
    """

    name: str
    score: MetricScore
    needs_labels: bool
    text: str
    running: Callable[[], Running] | None = None
    own: bool = False
    whole: bool = False
    kinds: frozenset[str] = frozenset({SCORES, PROBABILITIES, TOKENS, LABELS})

    def reads(self, outcome: Outcome) -> Any:
        """What it is given of a network's outcome: the answer, or the user's own metric all."""
        return outcome if self.own or self.whole else outcome.take(self.kinds)

    def start(self) -> Running:
        """The metric of no batch yet."""
        return self.running() if self.running else Mean(self.score)


def _top1(outputs: Tensor, labels: Any) -> tuple[float, int]:
    if not isinstance(labels, Tensor):
        raise DataError(
            "the metric top1 needs integer class labels and the evaluation data have none. Give "
            "labelled data, or --metric agreement, which needs none."
        )
    if outputs.dim() < 2 or predictions(outputs).shape != labels.shape:
        raise DataError(
            f"the metric top1 needs one row of class scores a label; the outputs have shape "
            f"{tuple(outputs.shape)} and the labels {tuple(labels.shape)}. Give one label a row of "
            "scores, or a metric of your own: --metric FILE.py:FUNCTION."
        )
    right = predictions(outputs) == labels.to(outputs.device)
    return float(right.sum()), right.numel()


def predictions(outputs: Tensor) -> Tensor:
    """The class of each row: the largest entry along the class axis (1 for images of classes)."""
    return outputs.argmax(dim=1 if outputs.dim() == 4 else -1)


def _of_spans(score: Callable[[str, str], float], name: str) -> MetricScore:
    """The mean over questions of a score of the answer that a network marks."""

    def of(outputs: Tensor, labels: Any) -> tuple[float, int]:
        asked = isinstance(labels, list) and all(isinstance(a, dict) for a in labels)
        if not asked or outputs.dim() != 3 or outputs.shape[1] != 2:
            raise DataError(
                f"the metric {name} needs a network that marks answers (start_logits and "
                "end_logits) and questions with their answers. Give hf:FOLDER of a network for "
                "question answering, and X.jsonl with question, context and answers; for labels "
                "of classes use --metric macro_f1."
            )
        total = 0.0
        for (start, end), label in zip(outputs, labels, strict=True):
            said = squad.best_span(start, end, label["places"], label["context"])
            total += squad.best_over(score, said, label["answers"])
        return total, len(labels)

    return of


def _no_score(*_: object) -> tuple[float, int]:
    return 0.0, 0


METRICS = {
    "top1": Metric("top1", _top1, True, "share of inputs whose highest score is the label's"),
    "top5": Metric(
        "top5", class_metrics.top5, True, "share of inputs whose label is among the five highest"
    ),
    "accuracy": Metric("accuracy", _top1, True, "the same, as texts are used to it"),
    "agreement": Metric(
        "agreement", _no_score, False, "share of inputs with the float network's answer"
    ),
    "miou": Metric(
        "miou", _no_score, True, "mean intersection over union of the classes of pixels",
        class_metrics.miou,
    ),
    "macro_f1": Metric(
        "macro_f1", _no_score, True, "mean F1 of the classes", class_metrics.macro_f1
    ),
    "perplexity": Metric(
        "perplexity", _no_score, True, "exp of the mean loss a token; less is better",
        class_metrics.Perplexity,
    ),
    "spearman": Metric(
        "spearman", _no_score, True, "rank correlation of numbers, or of similarities of pairs",
        Spearman, kinds=numbers.NUMBERS | {EMBEDDING},
    ),
    "pearson": Metric(
        "pearson", _no_score, True, "correlation of numbers", numbers.Pearson,
        kinds=numbers.NUMBERS,
    ),
    "mae": Metric(
        "mae", numbers.score_mae, True, "mean absolute error; less is better",
        kinds=numbers.NUMBERS,
    ),
    "rmse": Metric(
        "rmse", _no_score, True, "root mean squared error; less is better",
        numbers.RootMeanSquare, kinds=numbers.NUMBERS,
    ),
    "psnr": Metric(
        "psnr", numbers.score_psnr, True, "peak signal-to-noise ratio of images, decibels",
        kinds=numbers.IMAGES,
    ),
    "ssim": Metric(
        "ssim", numbers.score_ssim, True, "structural similarity of images", kinds=numbers.IMAGES
    ),
    "label_f1": Metric(
        "label_f1", _no_score, True, "F1 of labels of which a sample has several, all together",
        numbers.micro_f1, kinds=numbers.YES_OR_NO,
    ),
    "label_macro_f1": Metric(
        "label_macro_f1", _no_score, True, "the mean F1 of such labels", numbers.macro_label_f1,
        kinds=numbers.YES_OR_NO,
    ),
    "map": Metric(
        "map", _no_score, True, "COCO's mean average precision of boxes", CocoMap, whole=True
    ),
    "wer": Metric(
        "wer", _no_score, True, "word error rate; less is better", sequences.word_errors
    ),
    "cer": Metric(
        "cer", _no_score, True, "character error rate; less is better", sequences.letter_errors
    ),
    "f1": Metric("f1", _of_spans(squad.f1, "f1"), True, "F1 of answers' words, as in SQuAD 1.1"),
    "exact_match": Metric(
        "exact_match", _of_spans(squad.exact_match, "exact_match"), True,
        "share of questions answered word for word, as in SQuAD 1.1",
    ),
}  # fmt: skip


@dataclass
class _Own:
    """An object of the user's own that takes batches in and gives one number at the end."""

    made: Any
    name: str

    def add(self, outputs: Outcome, labels: Any) -> None:
        """Hand over the whole result of a batch."""
        with Foreign(RecipeError, f"the metric {self.name}"):
            self.made.add(outputs.whole, labels)

    def value(self) -> float | None:
        """What the object says of all batches."""
        with Foreign(RecipeError, f"the metric {self.name}"):
            found = self.made.value()
            return None if found is None else float(found)


def metric(given: str | Metric | Callable[..., Any]) -> Metric:
    """A metric by name, the user's own `FILE.py:FUNCTION`, or an object of Python's.

    The user's function takes (outputs, labels) of one batch and returns its mean score; a class
    has `add(outputs, labels)` and `value()`. `outputs` is all that the network returned.

    Raises:
        RecipeError: unknown name, or something that cannot be called so.
    """
    if isinstance(given, Metric):
        return given
    if not isinstance(given, str):
        return _own(given, _short(given), _short(given))
    if given in METRICS:
        return METRICS[given]
    refuse_unnamed("metric", given, "metric=...")
    if ":" not in given:
        found = load_registered("metric", given)
        if found is not None:
            return found if isinstance(found, Metric) else _own(found, given, given)
        raise RecipeError(
            unknown("metric", given, METRICS, "--metric") + " Or FILE.py:FUNCTION of your own."
        )
    return _own(load_object(given), given, given.rpartition(":")[2])


def metric_word(given: object) -> str:
    """How a recipe writes a metric: a name to import it by, or one that says there is none."""
    if isinstance(given, str):
        return given
    if isinstance(given, Metric):
        known = METRICS.get(given.name) is given
        return given.name if known else f"{given.name}{UNNAMED}"
    module, name = getattr(given, "__module__", ""), getattr(given, "__qualname__", "")
    passing = module == "__main__" or module.startswith("_bitwright_user_")
    if name and not passing and getattr(sys.modules.get(module), name, None) is given:
        return f"{module}:{name}"
    return f"{_short(given)}{UNNAMED}"


def _short(given: object) -> str:
    name = str(getattr(given, "__name__", type(given).__name__))
    return name if name.isidentifier() else "metric"


def _own(thing: Any, name: str, short: str) -> Metric:
    text = "the user's own"
    running = (getattr(thing, part, None) for part in ("add", "value"))
    if inspect.isclass(thing) and all(map(callable, running)):
        return Metric(short, _no_score, True, text, lambda: _Own(thing(), name), own=True)
    if inspect.isclass(thing) or not callable(thing) or not _takes_two(thing):
        raise RecipeError(
            f"the metric {name!r} must be a function of two arguments, (outputs, labels), or a "
            "class with add(outputs, labels) and value()."
        )

    def score(outcome: Outcome, labels: Any) -> tuple[float, int]:
        with Foreign(RecipeError, f"the metric {name}"):
            value = thing(outcome.whole, labels)
            number = float(value.item() if isinstance(value, Tensor) else value)
        return number * outcome.samples, outcome.samples

    return Metric(short, score, True, text, own=True)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a function of C that tells no signature
        return True
    return True
