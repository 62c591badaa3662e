"""The report page: full, empty and hostile data; nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import records
from bitwright.evaluation.figures import Metrics
from bitwright.graph.census_record import Census
from bitwright.report import svg
from bitwright.report import texts as report_text
from bitwright.report.report import ReportData, render_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects the tags, the attributes and the text; notes tags that do not close."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.open, self.wrong, self.words = [], [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def full(units=50, w_bits=8, **metrics):
    names = [f"blocks.{index}.conv" for index in range(units)]
    rows = [
        records.unit(name=name, w_bits=w_bits, params=1234 + index, macs=5_600_000,
                     shape=[32, 16, 3, 3], sqnr_db=31.25)
        for index, name in enumerate(names)
    ]  # fmt: skip
    rows[-1] |= {"w_bits": 0, "a_bits": 0, "reason": "kept in float by --keep"}
    return ReportData(
        title="zoo.py:lite0",
        command="bitwright quantize zoo.py:lite0 --data photos --scheme w8a8",
        created="2026-11-21 05:00:00",
        metrics=records.metrics(**{
            "float": {"top1": 0.8312},
            "quantized": {"top1": 0.8291},
            "agreement": 0.986,
            "kl": 0.00123,
            "samples": 500,
            "evaluated_on": "evaluation data",
            "stages": [
                {"name": "capture", "seconds": 1.5, "peak_rss_mb": 321.4},
                {"name": "solve", "seconds": 6.25, "peak_rss_mb": 654.2, "loss": 0.25},
            ],
            "size": {"float_bytes": 18_600_000, "weight_bytes": 4_600_000,
                     "file_bytes": 4_769_231, "onnx_bytes": 4_900_000, "ratio": 4769231 / 18.6e6,
                     "weight_ratio": 0.25},
            **metrics,
        }),
        census=records.census(
            units=rows,
            float_ops=[{"op": "softmax", "count": 12, "reason": "attention is float"}],
            notes=[{"place": "net.py:3", "text": "dropout removed"},
                   {"place": "data", "text": "a plain note"}],
            protocol={**records.CENSUS["protocol"], "schemes": {"w8a8": 49}},
            histograms=[picture(names[0])],
        ),
        verify=records.verification(
            agreement=0.998, max_difference=3.5e-5, units=dict.fromkeys(names, 2.5e-7)
        ),
        files={"model.safetensors": 4_769_231, "model.onnx": 4_900_000},
        warnings=["unit blocks.3 sees only 10 samples"],
    )  # fmt: skip


def picture(unit):
    return {
        "unit": unit, "what": "weight", "edges": [-2.0, -1.0, 0.0, 1.0, 2.0],
        "counts": [10, 400, 580, 10], "range": [-1.0, 1.0], "bits": 4, "error": 0.125,
    }  # fmt: skip


def with_units(data, change):
    """The data with other units: `change` is given each line of the census and its place."""
    units = [{**unit, **change(index, unit)} for index, unit in enumerate(data.census["units"])]
    return replace(data, census=Census.from_json({**data.census, "units": units}))


def rendered(data):
    page = Page(render_report(data))
    assert not page.wrong and not page.open
    return page


def test_verdict_is_one_sentence_with_the_given_numbers():
    page = rendered(full())
    assert (
        "w8a8 in 49 of 50 units: top-1 82.9 % against 83.1 % float (-0.2 points), "
        "agreement 98.6 % [97.1, 99.4], model.safetensors 1/3.9 of float; "
        "verified in ONNX Runtime: 50 of 50 units agree." in page.text
    )


@pytest.mark.parametrize(
    "shown",
    [
        "83.12 % [79.5, 86.2]", "82.91 % [79.3, 86.0]", "-0.21 points",  # accuracy
        "98.60 % [97.1, 99.4]", "0.00123",
        "18.60 MB", "4.60 MB", "4.77 MB (0.256 of float)", "4.90 MB", "6.25 % of float",  # size
        "1.50 s, peak 321 MB", "6.25 s, peak 654 MB, KL divergence 0.25",  # stages
        "blocks.7.conv", "32×16×3×3", "1.24 k", "5.6 M", "31.2 dB", "2.5e-07 ✓",  # units
        "4 bits, range -1 to 1, about 2.00 % outside, relative error 0.125",  # histogram
        "softmax", "attention is float", "kept in float by --keep",  # float
        "net.py:3: dropout removed", "a plain note", "w8a8: 49", "2.13.0",  # notes, protocol
        "bitwright quantize zoo.py:lite0 --data photos --scheme w8a8", "2026-11-21 05:00:00",
        "unit blocks.3 sees only 10 samples", "500 samples of the evaluation data",
    ],
)  # fmt: skip
def test_numbers_shown_are_those_given(shown):
    assert shown in rendered(full()).text


def test_empty_data_says_so_in_every_section():
    text = rendered(ReportData()).text
    for line in (
        "Nothing measured", "nothing was measured", "A network without a name",
        "metrics.json has no figures", "there is no verify.json", "No sizes were recorded",
        "No units were recorded", "No histograms were recorded", "No stages were recorded",
        "No operation is recorded as float", "No protocol was recorded",
        "No environment was recorded", "The command was not recorded",
    ):  # fmt: skip
        assert line in text


@pytest.mark.parametrize("field", ["metrics", "census", "verify", "files"])
def test_any_part_may_be_missing(field):
    empty = ReportData()
    rendered(replace(full(), **{field: getattr(empty, field)}))


def junk_in(value, junk):
    """A JSON value with junk in place of each of its parts, one after the other."""
    yield junk
    if not isinstance(value, (dict, list)):
        return
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, part in parts:
        for strange in junk_in(part, junk):
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = strange
            yield copy


@pytest.mark.parametrize("junk", [None, [], {}, "text", math.nan, math.inf, -1, [None], {"a": []}])
def test_junk_values_are_refused_by_their_place_or_break_nothing(junk):
    data, refused = full(units=3), 0
    for name in ("metrics", "census", "verify"):
        record = getattr(data, name)
        for strange in junk_in(record.to_json(), junk):
            try:
                read = type(record).from_json(strange, name)
            except ValueError as error:
                assert str(error).startswith(name), error
                refused += 1
            else:
                rendered(replace(data, **{name: read}))
    assert refused > 30


def test_hostile_names_are_only_text():
    strange = {"name": HOSTILE, "kind": HOSTILE, "reason": HOSTILE}
    data = with_units(full(units=4), lambda index, unit: strange)
    environment = dict.fromkeys(data.metrics["environment"], HOSTILE) | {"threads": 1}
    protocol = {**data.census["protocol"], "first": HOSTILE, "weights": HOSTILE}
    hostile = replace(
        data,
        title=HOSTILE,
        command=HOSTILE,
        created=HOSTILE,
        metrics=Metrics.from_json({
            **data.metrics, "float": {HOSTILE: 0.5}, "quantized": {HOSTILE: 0.4},
            "stages": [{"name": HOSTILE, "seconds": 1, "peak_rss_mb": 1, HOSTILE: 2.0}],
            "environment": environment, "evaluated_on": HOSTILE}),
        census=Census.from_json({
            **data.census, "float_ops": [{"op": HOSTILE, "count": 1, "reason": HOSTILE}],
            "notes": [{"place": HOSTILE, "text": HOSTILE}], "protocol": protocol,
            "histograms": [{**picture(HOSTILE), "what": HOSTILE}]}),
        verify=records.verification(passed=False, units={HOSTILE: 1.0}, first_failure=HOSTILE),
        files={HOSTILE: 3},
        warnings=[HOSTILE],
    )  # fmt: skip
    page = rendered(hostile)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) > 15
    assert "{{ 7*7 }}" in page.text


def test_nothing_is_loaded_from_anywhere():
    source = render_report(full(units=300))
    page = Page(source)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", source)
    assert not {"img", "link", "iframe", "object", "embed", "audio", "video"} & set(page.tags)
    assert not {name for _, name, _ in page.attributes} & {"src", "href", "srcset", "action"}
    assert len(source) < 1_000_000


def test_policy_admits_the_sorter_and_nothing_else():
    source = render_report(full())
    script = re.search(r"<script>(.*)</script>", source, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(v for _, n, v in Page(source).attributes if n == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_failed_verification_leads_the_page_and_names_the_unit():
    data = full()
    units = {**data.verify.units, "blocks.3.conv": 0.5, "blocks.4.conv": math.inf}
    verify = replace(data.verify, passed=False, units=units, first_failure="blocks.3.conv")
    text = rendered(replace(data, verify=verify)).text
    assert "Failed. For study: files of target" in text and "w8a8 in 49 of 50 units" in text
    assert "FAILED: 48 of 50 units agree, the first that does not is blocks.3.conv." in text
    assert "5.0e-01 ✗ out of tolerance" in text
    assert "not a finite number ✗ out of tolerance" in text
    assert "--keep blocks.3.conv=float" in text


def test_label_free_run_shows_agreement_and_asks_for_labels():
    text = rendered(full(float={}, quantized={})).text
    assert "units: agreement 98.6 % [97.1, 99.4], model" in text
    assert "--eval DATA --metric top1" in text


def test_poor_agreement_gets_advice():
    data = full(w_bits=4, agreement=0.61, float={"top1": 0.9}, quantized={"top1": 0.5})
    data = with_units(data, lambda index, unit: {"sqnr_db": 2.0} if index == 5 else {})
    text = rendered(data).text
    assert "Look closer." in text and "(-40.0 points)" in text
    for line in ("--keep first,last=w8a8", "--keep blocks.5.conv=w8a8", "--scheme w8a8",
                 "More calibration data than 128 samples", "bitwright list methods"):  # fmt: skip
        assert line in text


def test_units_are_weighed_by_weight_and_input_where_no_output_was_measured():
    def other(index, unit):
        weak = 6.0 if index == 7 else 20.0
        return {"weight_sqnr_db": 25.0, "input_sqnr_db": weak, "sqnr_db": None}

    data = with_units(full(w_bits=4, agreement=0.61), other)
    assert "--keep blocks.7.conv=w8a8" in rendered(data).text
    kept = report_text.compute_kept_db(data.census.units)
    assert kept["blocks.7.conv"] == pytest.approx(5.946, abs=1e-3)  # 10^-2.5 + 10^-0.6 of noise
    assert "blocks.49.conv" not in kept  # float


def test_good_w8a8_is_told_that_there_is_room():
    assert "--scheme w4a8 --keep first,last=w8a8" in rendered(full()).text
    assert "Nothing needs doing" in rendered(full(w_bits=4)).text


def test_few_samples_are_called_few():
    assert "Measured on 10 samples: one answer is 10.0 %" in rendered(full(samples=10)).text


def test_one_sample_is_no_good_news():
    """All answers of one sample agree: the page must not say that all is good."""
    text = rendered(full(samples=1, agreement=1.0, float={}, quantized={})).text
    assert "Look closer." in text and "Good." not in text
    assert "Measured on 1 sample of the evaluation data" in text
    assert "Measured on 1 sample: one answer is 100.0 %" in text
    assert "Good." in rendered(full(samples=60, agreement=1.0)).text


def test_stages_show_words_not_keys():
    figures = {"loss_before": 0.5, "units_changed": 3, "my_key": 2}
    stages = [{"name": "bn", "seconds": 1.0, "peak_rss_mb": 2.0, **figures}]
    text = rendered(full(stages=stages)).text
    assert "KL divergence before 0.5, units changed 3, my key 2" in text
    assert "_" not in text[text.index("Time and memory") : text.index("What stays float")]


def test_what_stays_float_takes_one_line_a_reason():
    data = full(units=3)
    ops = [{"op": "relu", "count": 1, "reason": "an activation"} for _ in range(17)]
    ops += [{"op": "relu_", "count": 2, "reason": "an activation"}]
    ops += [{"op": "x", "count": 1, "reason": "another"}]
    kept = [records.unit(name=f"u{i}", w_bits=0, reason="kept by --keep") for i in range(9)]
    text = rendered(replace(data, census=records.census(units=kept, float_ops=ops))).text
    assert "relu 19 an activation" in text and text.count("an activation") == 1
    assert "u0, u1, u2, u3, u4, u5 and 3 more 9 kept by --keep" in text
    ops.append({"op": "tanh", "count": 2, "reason": "an activation"})
    text = rendered(replace(data, census=records.census(float_ops=ops))).text
    assert "relu ×19, tanh ×2 21 an activation" in text


def test_a_metric_of_which_less_is_better_is_lost_when_it_grows():
    figures = {"float": {"perplexity": 20.0}, "quantized": {"perplexity": 24.0}}
    assert "Look closer." in rendered(full(**figures)).text
    figures = {"float": {"perplexity": 24.0}, "quantized": {"perplexity": 20.0}}
    text = rendered(full(**figures)).text
    assert "Good." in text and "perplexity 20 against 24 float (-4)" in text


def test_notes_are_not_repeated_where_they_are_warnings():
    text = rendered(replace(full(), warnings=["data: a plain note"])).text
    assert text.count("a plain note") == 1


def test_points_column_only_where_points_differ():
    data = full()
    assert "points params" not in rendered(data).text
    other = with_units(data, lambda index, unit: {"points": 2 - bool(index)})
    assert "points params" in rendered(other).text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "100.0 %"), (0.9999, "99.9 %"), (0.9996, "99.9 %"), (0.5, "50.0 %"), (0.0, "0.0 %")],
)
def test_percent_never_rounds_up_to_everything(value, shown):
    assert report_text.percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_345_678, "2.35 MB"), (None, "–")],
)
def test_bytes(value, shown):
    assert report_text.show_bytes(value) == shown


def test_differences_have_no_negative_zero():
    assert report_text.show_difference("top1", 0.5, 0.4999999) == "0.00 points"
    assert report_text.show_difference("top1", 0.5, 0.6) == "+10.00 points"
    assert report_text.show_difference("spearman", 0.5, 0.25) == "-25.00 points"
    assert report_text.show_difference("loss", 0.5, 0.25) == "-0.25"


def test_strip_has_one_column_a_unit():
    page = Page(svg.strip([(2, "a"), (8, "b"), (0, "c")], "bits"))
    classes = [value for tag, name, value in page.attributes if (tag, name) == ("rect", "class")]
    heights = [value for tag, name, value in page.attributes if (tag, name) == ("rect", "height")]
    assert classes == ["b2", "b8", "bf"]
    assert heights == ["10", "40", "40"]


def test_histogram_marks_what_lies_outside():
    edges, counts = [0.0, 1.0, 2.0, 3.0, 4.0], [1, 2, 3, 4]
    chart = svg.histogram(edges, counts, (0.0, 3.0), "h")
    assert chart.count('class="bar"') == 3 and chart.count('class="bar outside"') == 1
    assert svg.outside(edges, counts, (0.0, 3.0)) == pytest.approx(0.4)
    assert svg.outside(edges, counts, (0.0, 3.5)) == pytest.approx(0.2)
    assert svg.outside(edges, counts, (-9.0, 9.0)) == 0


@pytest.mark.parametrize(
    ("edges", "counts", "ends"),
    [
        ([], [], (0, 1)), ([0, 1], [0], (0, 1)), ([0, 0], [1], (0, 1)), ([0, 1], [1, 2], (0, 1)),
        ([0, 1], [1], ()), ([0, math.nan], [1], (0, 1)), ([0, 1], [1], (2, 1)),
        ([0, 1], [-1], (0, 1)),
    ],
)  # fmt: skip
def test_what_makes_no_histogram_is_not_drawn(edges, counts, ends):
    assert svg.histogram(edges, counts, ends, "h") is None
