"""Result rows survive crashes and say what is wrong."""

from __future__ import annotations

import errno
import json

import pytest

from lightning_modules.records import FIELDS, ResultLog, read_rows


def row(**changes):
    return dict.fromkeys(f for f in FIELDS if f not in ("schema", "time")) | {"run": "r", "value": 0.5} | changes


def test_rows_have_exactly_the_fields_of_the_schema(tmp_path):
    log = ResultLog(tmp_path / "results.jsonl")
    log.append([row()])
    assert list(json.loads((tmp_path / "results.jsonl").read_text())) == list(FIELDS)
    with pytest.raises(ValueError, match=r"missing \['metric'\], unknown \['metrik'\]"):
        log.append([{k: v for k, v in row().items() if k != "metric"} | {"metrik": 1}])


def test_a_line_cut_by_a_crash_is_skipped_and_not_glued_to_the_next(tmp_path):
    path = tmp_path / "results.jsonl"
    ResultLog(path).append([row(mllm="a"), row(mllm="b")])
    path.write_bytes(path.read_bytes()[:-20])
    log = ResultLog(path)
    log.append([row(mllm="c")])
    assert [r["mllm"] for r in read_rows(log.path)] == ["a", "c"]


def test_a_repeated_measurement_counts_once_with_its_latest_value(tmp_path):
    log = ResultLog(tmp_path / "results.jsonl")
    log.append([row(mllm="a", value=0.1), row(mllm="b", value=0.2)])
    log.append([row(mllm="a", value=0.3)])
    assert {r["mllm"]: r["value"] for r in read_rows(log.path)} == {"a": 0.3, "b": 0.2}
    log.append([row(mllm="a", value=0.4, through="jpeg:75")])  # another measurement
    assert [r["value"] for r in read_rows(log.path)] == [0.2, 0.3, 0.4]


def test_a_full_disk_is_one_clear_message(tmp_path, monkeypatch):
    log = ResultLog(tmp_path / "results.jsonl")
    log.append([row(mllm="a")])
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=r"Cannot append results.*No space left.*resume=RUN"):
        log.append([row(mllm="b")])
    assert read_rows(log.path)[0]["mllm"] == "a"


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        ResultLog(tmp_path / "results.jsonl").append([row(value=float("nan"))])
