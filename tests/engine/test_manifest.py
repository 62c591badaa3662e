"""The manifest: read back as written; anything else is a sentence."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from bitwright.engine.manifest import Manifest, Seal, difference, parse_manifest, seal, seal_of
from bitwright.errors import RunDirectoryError

GOOD = Manifest({"model.onnx": Seal(3, "0" * 64), "é.json": Seal(0, "a" * 64)}, ("b", "a"), "0.1")


def test_round_trip():
    found = parse_manifest(GOOD.text(), "it")
    assert found.files == GOOD.files and found.pending == ("a", "b") and not found.whole
    assert parse_manifest(Manifest().text(), "it").whole


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("files"),
        lambda r: r.update(files=[]),
        lambda r: r.update(pending=3),
        lambda r: r.update(pending=["../x"]),
        lambda r: r.update(whole=True),
        lambda r: r.update(pending=[]),
        lambda r: r["files"].update({"a/b": {"size": 1, "sha256": "0" * 64}}),
        lambda r: r["files"].update({"..": {"size": 1, "sha256": "0" * 64}}),
        lambda r: r["files"].update(x={"size": -1, "sha256": "0" * 64}),
        lambda r: r["files"].update(x={"size": True, "sha256": "0" * 64}),
        lambda r: r["files"].update(x={"size": 1.5, "sha256": "0" * 64}),
        lambda r: r["files"].update(x={"size": 1, "sha256": "0" * 63}),
        lambda r: r["files"].update(x={"size": 1, "sha256": None}),
        lambda r: r["files"].update(x=None),
    ],
)
def test_what_cannot_be_is_damaged(change):
    record = json.loads(GOOD.text())
    change(record)
    with pytest.raises(RunDirectoryError, match="it is damaged"):
        parse_manifest(json.dumps(record).encode(), "it")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 200_000, b"{}"])
def test_what_is_no_manifest_is_damaged(text):
    with pytest.raises(RunDirectoryError, match="it is damaged"):
        parse_manifest(text, "it")


def test_another_version_is_told():
    record = json.loads(GOOD.text()) | {"version": 2}
    with pytest.raises(RunDirectoryError, match=r"version 2; this bitwright reads 1.*'0\.1'"):
        parse_manifest(json.dumps(record).encode(), "it")


def test_seals_are_those_of_hashlib(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    want = Seal(len(content), hashlib.sha256(content).hexdigest())
    assert seal(tmp_path / "a") == seal_of(content) == want
    assert seal(tmp_path / "a", 1_500_000) == seal_of(content[:1_500_000])
    assert difference(want, want) == ""
    assert difference(seal_of(b"ab"), want) == "2 bytes instead of 3,000,000"
    assert difference(seal_of(b"ab"), seal_of(b"ba")) == "other content in the same 2 bytes"
