"""Mean average precision of detections, as COCO counts it."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError, InputError
from bitwright.graph.answers import Outcome
from bitwright.graph.heads import BOXES, PROBABILITY, Head, scored_rows
from bitwright.numerics.head_agreement import detections

# Rows below this confidence are no detections: precision at every recall wants unsure ones too.
LEAST_CONFIDENCE = 0.05
_WANTS = (
    "labels that are dictionaries, one a sample: {'boxes': [n, 4] as left, top, right, bottom, "
    "'labels': [n] class numbers}"
)


@dataclass
class CocoMap:
    """COCO's mean average precision: over classes, and overlaps from 0.5 to 0.95.

    Detections are the rows of boxes and scores after non-maximum suppression at 0.5, the 100 best
    of an image. Computed by pycocotools (the extra [detection]).
    Reference: Lin et al., arXiv 1405.0312; its evaluation code.
    """

    found: list[list[float]] = field(default_factory=list)
    true: list[dict[str, object]] = field(default_factory=list)
    images: int = 0

    def add(self, outputs: Outcome, labels: Any) -> None:
        """Take in a batch.

        Raises:
            DataError: the network has no boxes with scores, or the samples no true boxes.
        """
        boxes, scores = find_pair(outputs)
        if not isinstance(labels, list) or not all(_is_label(label) for label in labels):
            raise DataError(f"the metric map needs {_WANTS}. Give such data by --eval.")
        by_name = outputs.named()
        rows = boxes.rows(by_name[boxes.name]), scored_rows(scores, by_name[scores.name])
        for own, said, label in zip(*rows, labels, strict=True):
            self.images += 1
            self._add_true(torch.as_tensor(label["boxes"]), torch.as_tensor(label["labels"]))
            form = PROBABILITY if scores.form == PROBABILITY else "logit"
            corners, classes, sure = detections(own, said, (boxes.form, form), LEAST_CONFIDENCE)
            low, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
            place = torch.full((len(corners), 1), float(self.images), dtype=torch.float64)
            table = torch.cat([place, low, size, sure[:, None], classes[:, None].double()], 1)
            self.found += table.tolist()

    def _add_true(self, boxes: Tensor, labels: Tensor) -> None:
        corners = boxes.double().reshape(-1, 4)
        for (left, top, right, bottom), number in zip(
            corners.tolist(), labels.tolist(), strict=True
        ):
            width, height = right - left, bottom - top
            self.true.append(
                {
                    "id": len(self.true) + 1, "image_id": self.images, "category_id": int(number),
                    "bbox": [left, top, width, height], "area": width * height, "iscrowd": 0,
                }
            )  # fmt: skip

    def value(self) -> float | None:
        """Of all batches so far; 0 where nothing is found."""
        if not self.true:
            return None
        if not self.found:
            return 0.0
        with contextlib.redirect_stdout(io.StringIO()):
            known = _tools("coco").COCO()
            known.dataset = {
                "images": [{"id": i + 1} for i in range(self.images)],
                "categories": [
                    {"id": int(c)}
                    for c in sorted({str(t["category_id"]) for t in self.true}, key=int)
                ],
                "annotations": self.true,
                "info": {},
            }
            known.createIndex()
            rows = torch.tensor(self.found, dtype=torch.float64).numpy()
            judged = _tools("cocoeval").COCOeval(known, known.loadRes(rows), "bbox")
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        return float(judged.stats[0])


def find_pair(outcome: Outcome) -> tuple[Head, Head]:
    """The boxes and the scores of the same rows.

    Raises:
        DataError: the network has none.
    """
    heads = outcome.meaning.heads
    for head in heads:
        partner = next((h for h in heads if head.partner and h.name == head.partner), None)
        if head.kind == BOXES and partner is not None:
            return head, partner
    raise DataError(
        "the metric map needs decoded boxes and the scores of the same rows among the outputs. Let "
        "forward() return both, and say which they are: --answer 'NAME=boxes:xyxy, OTHER=scores'."
    )


def _is_label(label: object) -> bool:
    return isinstance(label, dict) and {"boxes", "labels"} <= label.keys()


def _tools(module: str) -> Any:
    try:
        return importlib.import_module(f"pycocotools.{module}")
    except ImportError as error:
        raise InputError(
            "the metric map is computed by pycocotools, which is not installed. Install it: "
            "pip install 'bitwright[detection]'."
        ) from error
