"""The words of the report: numbers as people read them, and the verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.evaluation.figures import LESS_IS_BETTER, Metrics
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census, UnitEntry
from bitwright.graph.choice import Choice
from bitwright.report.rates import FEW_SAMPLES, interval

# A file that takes so much longer than float is called slower: less is within what clocks tell.
SLOWER = 1.1
POOR_AGREEMENT, POOR_DROP = 0.9, 0.02
MISSING = "–"
LEGEND = "[low, high] holds the true rate 95 times in 100 (Wilson's interval)"

# Shares of samples, or means of something between 0 and 1 over them: what an interval is known of.
PROPORTIONS = {"top1": "top-1", "top5": "top-5", "accuracy": "accuracy", "agreement": "agreement",
               "f1": "F1", "exact_match": "exact match"}  # fmt: skip
_RATES = {**PROPORTIONS, "macro_f1": "macro F1", "miou": "mean IoU", "spearman": "Spearman"}
_NAMES = {**_RATES, "perplexity": "perplexity", "loss": "KL divergence",
          "loss_before": "KL divergence before", "kl": "KL divergence",
          "units_changed": "units changed"}  # fmt: skip


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


def metric_name(key: str) -> str:
    """A metric's key as people write it."""
    return _NAMES.get(key, key.replace("_", " "))


def show_metric(key: str, value: object, digits: int = 2) -> str:
    """Rates in percent, other metrics as plain numbers."""
    found = number(value)
    if found is None:
        return MISSING if value is None else str(value)
    return percent(found, digits) if key in _RATES else f"{found:.4g}"


def show_difference(key: str, before: object, after: object, digits: int = 2) -> str:
    """Quantised minus float: points for rates."""
    first, second = number(before), number(after)
    if first is None or second is None:
        return MISSING
    if key not in _RATES:
        return f"{second - first:+.4g}" if second != first else "0"
    points = round(100 * (second - first), digits) + 0.0
    return f"{points:+.{digits}f} points" if points else f"{0:.{digits}f} points"


def show_interval(key: str, value: object, samples: object) -> str:
    """The 95 % interval of a rate, such as [89.5, 99.6]; empty where none is known."""
    found = interval(number(value), number(samples)) if key in PROPORTIONS else None
    return "" if found is None else str(found)


def with_interval(key: str, value: object, samples: object) -> str:
    """A metric, and its interval where it is a rate."""
    return f"{show_metric(key, value)} {show_interval(key, value, samples)}".rstrip()


def percent(value: float, digits: int = 1) -> str:
    """A fraction in percent; what is not quite 100 % is not rounded up to it."""
    if value < 1:
        scale = 10.0 ** (digits + 2)
        if round(value * scale) >= scale:
            value = math.floor(value * scale) / scale
    return f"{100 * value:.{digits}f} %"


def show_bytes(value: object) -> str:
    """Bytes, kB or MB (powers of ten)."""
    found = number(value)
    if found is None:
        return MISSING
    if found < 1000:
        return f"{found:.0f} bytes"
    return f"{found / 1000:.1f} kB" if found < 1e6 else f"{found / 1e6:.2f} MB"


def show_count(value: object) -> str:
    """A count with k, M or G."""
    found = number(value)
    if found is None:
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(found) >= size:
            return f"{found / size:.3g} {unit}"
    return f"{found:.0f}"


def show_decibels(value: object) -> str:
    """Signal to noise in dB."""
    found = number(value)
    return MISSING if found is None else f"{found:.1f} dB"


def show_bits(value: object) -> str:
    """Bits of a unit; 0 stands for float."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:.0f}" if found else "float"


def show_value(value: object) -> str:
    """Any value of a record as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show_value(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(show_value(part) for part in value) or "none"
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
    vectors: bool = False
    slowdown: float | None = None
    target: str = ""

    @property
    def sure(self) -> str:
        """The interval of the agreement; a mean cosine has none."""
        return "" if self.vectors else show_interval("agreement", self.agreement, self.samples)

    @property
    def drop(self) -> float | None:
        """How much of the metric is lost: as it stands for rates, else relative to float."""
        if self.metric is None or self.before is None or self.after is None:
            return None
        lost = (
            self.after - self.before if self.metric in LESS_IS_BETTER else self.before - self.after
        )
        if self.metric in _RATES or max(abs(self.before), abs(self.after)) <= 1:
            return lost
        return lost / abs(self.before) if self.before else None

    @property
    def level(self) -> str:
        """`bad`, `warn`, `good`, or `none` where nothing was measured."""
        if self.verified is False:
            return "bad"
        if self.agreement is None and self.drop is None:
            return "none"
        doubtful = self.poor or self.few or self.slow or self.verified is None
        return "warn" if doubtful else "good"

    @property
    def slow(self) -> bool:
        """Whether the file takes longer than the float network."""
        return self.slowdown is not None and self.slowdown > SLOWER

    @property
    def few(self) -> bool:
        """Whether so few samples were measured that their agreement may be a poor one."""
        if self.samples is None or self.samples >= FEW_SAMPLES:
            return False
        found = None if self.vectors else interval(self.agreement, self.samples)
        return found is None or found.low < POOR_AGREEMENT

    @property
    def poor(self) -> bool:
        """Whether the quantised network answers too differently."""
        agreement, drop = self.agreement, self.drop
        return (agreement is not None and agreement < POOR_AGREEMENT) or (
            drop is not None and drop > POOR_DROP
        )


def summarise(
    metrics: Metrics | None, census: Census | None, verify: Verification | None
) -> Summary:
    """Pick the figures that decide out of a run's records."""
    before, after = (metrics.before, metrics.after) if metrics else ({}, {})
    key = next((k for k in before if number(before[k]) is not None and k in after), None)
    return Summary(
        scheme=scheme_of(census.units if census else ()),
        metric=key,
        before=number(before[key]) if key else None,
        after=number(after[key]) if key else None,
        agreement=number(metrics.agreement) if metrics else None,
        samples=metrics.samples if metrics else None,
        ratio=number(metrics.size.ratio) if metrics else None,
        verified=verify.passed if verify else None,
        units_good=sum(map(verify.agrees, verify.units)) if verify else 0,
        units_checked=len(verify.units) if verify else 0,
        first_failure=verify.first_failure if verify else None,
        vectors=metrics is not None and metrics.has_vectors,
        slowdown=slowdown(verify),
        target=census.target if census else "",
    )


def compute_kept_db(units: Sequence[UnitEntry]) -> dict[str, float]:
    """How much of its signal each quantised unit keeps, in dB, by one measure for all of them.

    The SQNR of its output where that was measured for all; else what the noises of its weight and
    of its input come to together, which is that of the output where they are independent.
    """
    quantised = [unit for unit in units if unit.w_bits]
    measured = {unit.name: number(unit.sqnr_db) for unit in quantised}
    if any(value is None for value in measured.values()):
        measured = {unit.name: _together(unit) for unit in quantised}
    return {name: value for name, value in measured.items() if value is not None}


def _together(unit: UnitEntry) -> float | None:
    parts = [number(unit.weight_sqnr_db), number(unit.input_sqnr_db)]
    # Beyond 300 dB there is no noise that float64 can tell from none.
    known = [max(-300.0, min(300.0, part)) for part in parts if part is not None]
    return -10 * math.log10(sum(10 ** (-part / 10) for part in known)) if known else None


def scheme_of(units: Sequence[UnitEntry]) -> str:
    """The bits of all units, or of how many of them; of a mixture from which to which."""
    counted = Counter(_scheme(unit) for unit in units)
    if not counted:
        return "bits not known"
    scheme, count = counted.most_common(1)[0]
    if len(counted) == 1:
        return scheme
    if 2 * count > len(units):
        return f"{scheme} in {count} of {len(units)} units"
    ordered = sorted(units, key=lambda u: (_finest(u, u.w_bits), _finest(u, u.a_bits)))
    return f"mixed bits, {_scheme(ordered[0])} to {_scheme(ordered[-1])}"


def _finest(unit: UnitEntry, bits: int) -> float:
    """The bits of a unit, float being the finest."""
    return (bits or math.inf) * unit.points


def _scheme(unit: UnitEntry) -> str:
    return str(Choice(unit.w_bits, unit.a_bits, unit.points))


def slowdown(verify: Verification | None) -> float | None:
    """The file's time relative to float's, from a verification; None where it was not timed."""
    return number(verify.speed.ratio) if verify and verify.speed else None


def compare_times(ratio: float) -> str:
    """A time relative to float's, in words.

    >>> [compare_times(x) for x in (1.51, 0.5, 1.0)]
    ['SLOWER than float, 1.5 times its time', 'faster than float, 2.0 times', 'as fast as float']
    """
    if ratio > SLOWER:
        return f"SLOWER than float, {ratio:.1f} times its time"
    return f"faster than float, {1 / ratio:.1f} times" if ratio < 1 / SLOWER else "as fast as float"


def verdict(summary: Summary) -> str:
    """The whole run in one sentence."""
    parts = []
    if summary.metric is not None and summary.drop is not None:
        key = summary.metric
        parts.append(
            f"{metric_name(key)} {show_metric(key, summary.after, 1)} against "
            f"{show_metric(key, summary.before, 1)} float "
            f"({show_difference(key, summary.before, summary.after, 1)})"
        )
    if summary.agreement is not None:
        sure = summary.sure and f" {summary.sure}"
        parts.append(f"agreement {percent(summary.agreement)}{sure}")
    if summary.ratio:
        small = f"1/{1 / summary.ratio:.1f}" if summary.ratio < 1 else f"{summary.ratio:.1f} times"
        parts.append(f"model.safetensors {small} of float")
    if summary.slowdown is not None:
        parts.append(compare_times(summary.slowdown))
    measured = ", ".join(parts) or "nothing was measured"
    return f"{summary.scheme}: {measured}; {_describe_verification(summary)}."


def _describe_verification(summary: Summary) -> str:
    if summary.verified is None:
        return "not verified in ONNX Runtime"
    units = f"{summary.units_good} of {summary.units_checked} units agree"
    if summary.verified:
        return f"verified in ONNX Runtime: {units}"
    first = f", the first that does not is {summary.first_failure}" if summary.first_failure else ""
    return f"verification in ONNX Runtime FAILED: {units}{first}"
