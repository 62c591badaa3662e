"""The words of the report: numbers as people read them, the verdict, what to do next."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POOR_AGREEMENT, GOOD_AGREEMENT = 0.9, 0.98
POOR_DROP, GOOD_DROP = 0.02, 0.005
FEW_SAMPLES, FEW_CALIBRATION = 100, 256
WEAK_DB = 6.0
MISSING = "–"

_RATES = {"top1": "top-1", "top5": "top-5", "accuracy": "accuracy", "agreement": "agreement",
          "f1": "F1", "exact_match": "exact match", "spearman": "Spearman"}  # fmt: skip


# ---- numbers ---------------------------------------------------------------------------------


def number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer beyond what a float holds
        return None
    return found if math.isfinite(found) else None


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def rows(value: object) -> list[Mapping[str, Any]]:
    """The mappings in a list, else none."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def metric_name(key: str) -> str:
    """A metric's key as people write it."""
    return _RATES.get(key, key)


def shown_metric(key: str, value: object, digits: int = 2) -> str:
    """Rates in percent, other metrics as plain numbers."""
    found = number(value)
    if found is None:
        return MISSING if value is None else str(value)
    return percent(found, digits) if key in _RATES else f"{found:.4g}"


def shown_difference(key: str, before: object, after: object, digits: int = 2) -> str:
    """Quantised minus float: points for rates."""
    first, second = number(before), number(after)
    if first is None or second is None:
        return MISSING
    if key not in _RATES:
        return f"{second - first:+.4g}"
    points = round(100 * (second - first), digits) + 0.0
    return f"{points:+.{digits}f} points" if points else f"{0:.{digits}f} points"


def percent(value: float, digits: int = 1) -> str:
    """A fraction in percent; what is not quite 100 % is not rounded up to it."""
    if value < 1:
        scale = 10.0 ** (digits + 2)
        if round(value * scale) >= scale:
            value = math.floor(value * scale) / scale
    return f"{100 * value:.{digits}f} %"


def shown_bytes(value: object) -> str:
    """Bytes, kB or MB (powers of ten)."""
    found = number(value)
    if found is None:
        return MISSING
    if found < 1000:
        return f"{found:.0f} bytes"
    return f"{found / 1000:.1f} kB" if found < 1e6 else f"{found / 1e6:.2f} MB"


def shown_count(value: object) -> str:
    """A count with k, M or G."""
    found = number(value)
    if found is None:
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(found) >= size:
            return f"{found / size:.3g} {unit}"
    return f"{found:.0f}"


def shown_bits(value: object) -> str:
    """Bits of a unit; 0 stands for float."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:.0f}" if found else "float"


def shown_value(value: object) -> str:
    """Any value of a record as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {shown_value(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(shown_value(part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


# ---- what a run amounts to -------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """The few figures that the verdict and the advice look at; None where not known."""

    scheme: str
    metric: str | None
    before: float | None
    after: float | None
    agreement: float | None
    samples: float | None
    ratio: float | None
    verified: bool | None
    units_good: int
    units_checked: int
    first_failure: str | None

    @property
    def drop(self) -> float | None:
        """How much of the metric is lost."""
        if self.before is None or self.after is None:
            return None
        return self.before - self.after

    @property
    def level(self) -> str:
        """`bad`, `warn`, `good`, or `none` where nothing was measured."""
        if self.verified is False:
            return "bad"
        if self.agreement is None and self.drop is None:
            return "none"
        return "warn" if self.poor or self.verified is None else "good"

    @property
    def poor(self) -> bool:
        """Whether the quantised network answers too differently."""
        agreement, drop = self.agreement, self.drop
        return (agreement is not None and agreement < POOR_AGREEMENT) or (
            drop is not None and drop > POOR_DROP
        )


def summarise(
    metrics: Mapping[str, Any], units: Sequence[Mapping[str, Any]], verify: Mapping[str, Any] | None
) -> Summary:
    """Pick the figures that decide out of a run's records."""
    before, after = mapping(metrics.get("float")), mapping(metrics.get("quantized"))
    key = next((k for k in before if number(before[k]) is not None and k in after), None)
    found = verify or {}
    differences = mapping(found.get("units"))
    good = [name for name in differences if agrees(differences[name], found)]
    passed = found.get("passed")
    return Summary(
        scheme=scheme_of(units),
        metric=key,
        before=number(before.get(key)) if key else None,
        after=number(after.get(key)) if key else None,
        agreement=number(metrics.get("agreement")),
        samples=number(metrics.get("samples")),
        ratio=number(mapping(metrics.get("size")).get("ratio")),
        verified=None if passed is None else bool(passed),
        units_good=len(good),
        units_checked=len(differences),
        first_failure=found.get("first_failure"),
    )


def agrees(difference: object, verify: Mapping[str, Any]) -> bool:
    """Whether a unit's difference is within the tolerance; what is no number is not."""
    found = number(difference)
    return found is not None and found <= (number(verify.get("tolerance")) or 0.0)


def scheme_of(units: Sequence[Mapping[str, Any]]) -> str:
    """The bits of most units, with how many they are where not all."""
    counted = Counter(_scheme(unit) for unit in units)
    if not counted:
        return "bits not known"
    scheme, count = counted.most_common(1)[0]
    return scheme if len(counted) == 1 else f"{scheme} in {count} of {len(units)} units"


def _scheme(unit: Mapping[str, Any]) -> str:
    if not unit.get("w_bits"):
        return "float"
    points = unit.get("points") or 1
    return f"w{unit['w_bits']}a{unit.get('a_bits') or 'float'}" + (
        f"x{points}" if points != 1 else ""
    )


def verdict(summary: Summary) -> str:
    """The whole run in one sentence."""
    parts = []
    if summary.metric is not None and summary.drop is not None:
        key = summary.metric
        parts.append(
            f"{metric_name(key)} {shown_metric(key, summary.after, 1)} against "
            f"{shown_metric(key, summary.before, 1)} float "
            f"({shown_difference(key, summary.before, summary.after, 1)})"
        )
    if summary.agreement is not None:
        parts.append(f"agreement {percent(summary.agreement)}")
    if summary.ratio:
        small = f"1/{1 / summary.ratio:.1f}" if summary.ratio < 1 else f"{summary.ratio:.1f} times"
        parts.append(f"model.safetensors {small} of float")
    measured = ", ".join(parts) or "nothing was measured"
    return f"{summary.scheme}: {measured}; {_verified(summary)}."


def _verified(summary: Summary) -> str:
    if summary.verified is None:
        return "not verified in ONNX Runtime"
    units = f"{summary.units_good} of {summary.units_checked} units agree"
    if summary.verified:
        return f"verified in ONNX Runtime: {units}"
    first = f", the first that does not is {summary.first_failure}" if summary.first_failure else ""
    return f"verification in ONNX Runtime FAILED: {units}{first}"


# ---- what to do next -------------------------------------------------------------------------


def advice(
    summary: Summary, units: Sequence[Mapping[str, Any]], calibration: object
) -> list[tuple[str, str]]:
    """What to do next, the most pressing first: (reason, option or command; may be empty)."""
    found = _about_verify(summary)
    if summary.poor:
        found += _about_loss(units, number(calibration))
    if summary.metric is None and summary.agreement is not None:
        found.append(
            ("Only agreement was measured. Labelled data show the accuracy:",
             "--eval DATA --metric top1")
        )  # fmt: skip
    if summary.samples is not None and summary.samples < FEW_SAMPLES:
        found.append(
            (f"Measured on {summary.samples:.0f} samples: one answer is "
             f"{percent(1 / max(summary.samples, 1))}. Give more:", "--eval DATA")
        )  # fmt: skip
    if _has_room(summary, units):
        found.append(("There is room for fewer bits:", "--scheme w4a8 --keep first,last=w8a8"))
    return found or [("Nothing needs doing: the figures above are good.", "")]


def _about_verify(summary: Summary) -> list[tuple[str, str]]:
    if summary.verified is None:
        return [
            ("See whether ONNX Runtime computes the same from model.onnx:",
             "bitwright verify RUN --data DATA")
        ]  # fmt: skip
    if summary.verified:
        return []
    if summary.first_failure:
        return [
            ("ONNX Runtime computes this unit otherwise than the simulation. Leave it in float, or "
             "use a target that the runtime follows exactly:",
             f"--keep {shlex.quote(f'{summary.first_failure}=float')}")
        ]  # fmt: skip
    return [
        ("Each unit agrees, yet the whole network does not, or no unit was checked. Verify again "
         "with more data:", "bitwright verify RUN --data DATA")
    ]  # fmt: skip


def _about_loss(
    units: Sequence[Mapping[str, Any]], calibration: float | None
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    coarse = {str(unit.get("name")) for unit in units if _is_coarse(unit)}
    ends = {str(unit.get("name")) for unit in (*units[:1], *units[-1:])}
    if ends & coarse and len(units) > 2:
        found.append(
            ("The answers differ too much. The first and the last unit often need more bits:",
             "--keep first,last=w8a8")
        )  # fmt: skip
    weak = _weak_units(units)
    if weak:
        keep = ",".join(weak) + ("=w8a8" if coarse & set(weak) else "=float")
        found.append(
            ("These units lose far more than the others. Keep them finer:",
             f"--keep {shlex.quote(keep)}")
        )  # fmt: skip
    if coarse:
        found.append(("The answers differ too much. Use more bits:", "--scheme w8a8"))
    if calibration is None or calibration < FEW_CALIBRATION:
        seen = "" if calibration is None else f" than {calibration:.0f} samples"
        found.append((f"More calibration data{seen} make better ranges:", "--data DATA --calib N"))
    found.append(("Another rounding method may lose less:", "bitwright list methods"))
    return found


def _is_coarse(unit: Mapping[str, Any]) -> bool:
    return any(0 < (number(unit.get(key)) or 0) < 8 for key in ("w_bits", "a_bits"))


def _weak_units(units: Sequence[Mapping[str, Any]], most: int = 3) -> list[str]:
    """Units whose output SQNR is far below the median, worst first."""
    measured = {
        str(unit.get("name")): value
        for unit in units
        if (value := number(unit.get("sqnr_db"))) is not None
    }
    if len(measured) < 3:
        return []
    limit = statistics.median(measured.values()) - WEAK_DB
    return [name for name in sorted(measured, key=lambda n: measured[n]) if measured[name] < limit][
        :most
    ]


def _has_room(summary: Summary, units: Sequence[Mapping[str, Any]]) -> bool:
    close = summary.agreement is not None and summary.agreement >= GOOD_AGREEMENT
    kept = summary.drop is None or summary.drop <= GOOD_DROP
    quantised = [unit for unit in units if unit.get("w_bits")]
    return close and kept and bool(quantised) and not any(map(_is_coarse, quantised))
