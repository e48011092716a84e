"""W&B for real (offline runs read back), TensorBoard, and W&B out of reach."""

import json
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, TINY, environment, metrics, run

from runs import train_dqn
from runs.config import TrackingConfig, TrainConfig
from runs.tracking import DQN_METRICS, Tracker

WITH_WANDB = [option if option != "none" else "wandb" for option in TINY]


def log_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format, blocks of 32 KiB, after a header of 7 bytes."""
    at, block, whole = 7, 32 * 1024, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little left in the block for a record's header
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def read_back(folder: Path) -> list[dict]:
    """Return all records of the offline runs below `folder` as dictionaries."""
    from google.protobuf.json_format import MessageToDict
    from wandb.proto import wandb_internal_pb2

    records = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(data)
            records.append(MessageToDict(record))
    return records


def history(records: list[dict]) -> list[dict]:
    """Return what was logged, a dictionary for each row, with the parts of a thing under its name and theirs."""
    rows = []
    for record in records:
        if "history" in record:
            items = {i.get("key") or "/".join(i["nestedKey"]): i["valueJson"] for i in record["history"]["item"]}
            row: dict = {}
            for key, value in items.items():
                found = json.loads(value)
                row |= {f"{key}/{part}": part_of for part, part_of in found.items()} if isinstance(found, dict) else {}
                row[key] = found
            rows.append(row)
    return rows


def test_offline_runs_hold_configuration_metrics_and_video(tmp_path: Path) -> None:
    out = tmp_path / "run"
    extra = ["--evaluate-every-steps", "300", "--evaluation-video-steps", "20", "--wandb-tags", "a", "b"]
    extra += ["--wandb-checkpoints"]
    printed = run("runs.train_dqn", *WITH_WANDB, *extra, "--total-steps", "300", "--out", str(out))
    assert "wandb sync" in printed
    run("runs.train_dqn", "--resume", str(out), "--total-steps", "400")
    records = read_back(out)
    runs = [record["run"] for record in records if "run" in record]
    assert len({r["runId"] for r in runs}) == 1 and runs[0]["tags"] == ["a", "b"]
    assert {r["runGroup"] for r in runs} == {"catch-catch"}
    defined = [record["metric"] for record in records if "metric" in record]
    assert {m.get("globName"): m["stepMetric"] for m in defined if "stepMetric" in m} == {"*": "steps"}
    config = {item["key"]: json.loads(item["valueJson"]) for item in runs[0]["config"]["update"]}
    assert config["env"]["game"] == "catch" and config["versions"]["commit"]
    rows = history(records)
    csv_rows = metrics(out)
    logged = [row for row in rows if "epsilon" in row]
    assert [row["steps"] for row in logged] == [int(r["steps"]) for r in csv_rows if r["epsilon"]]
    assert any("evaluation_score" in row for row in rows)
    assert any(row.get("evaluation_video/_type") == "video-file" for row in rows)
    assert list(out.glob("wandb/offline-run-*/files/media/videos/*.mp4"))
    at_end = json.loads((out / "evaluation.json").read_text())
    tables = [json.loads(path.read_text()) for path in out.glob("wandb/offline-run-*/files/media/table/*.json")]
    games = [list(row) for row in zip(range(2), at_end["scores"], at_end["lengths_steps"], strict=True)]
    assert {"columns": ["episode", "score", "length_steps"], "data": games} in tables
    assert [row["steps"] for row in rows if "evaluation_episodes/_type" in row] == [300, 300, 400]
    sent = [record["artifact"] for record in records if "artifact" in record and record["artifact"]["type"] == "model"]
    named = ["best", "steps-300", "best", "steps-400"]
    assert [set(artifact["aliases"]) for artifact in sent] == [{"latest", alias} for alias in named]
    for artifact in sent:
        assert {entry["path"] for entry in artifact["manifest"]["contents"]} == {"config.json", "weights.safetensors"}


def test_a_report_is_sent(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("runs.train_dqn", *TINY, "--total-steps", "200", "--out", str(out))
    printed = run("runs.report", str(out), "--out", str(tmp_path / "r.html"), "--wandb", "someone/reports")
    assert "wandb sync" in printed
    records = read_back(tmp_path)
    about = next(record["run"] for record in records if "run" in record)
    assert (about["jobType"], about["entity"], about["project"]) == ("report", "someone", "reports")
    assert any(row.get("report/_type") == "html-file" for row in history(records))
    (page,) = tmp_path.glob("wandb/offline-run-*/files/media/html/*.html")
    assert page.read_text() == (tmp_path / "r.html").read_text()
    (sent,) = (record["artifact"] for record in records if "artifact" in record)
    assert sent["type"] == "report" and [entry["path"] for entry in sent["manifest"]["contents"]] == ["r.html"]


@pytest.mark.parametrize(
    "wrong", [{"WANDB_API_KEY": "short"}, {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}]
)
def test_wandb_out_of_reach_or_a_bad_key(wrong: dict[str, str], tmp_path: Path) -> None:
    out, began = tmp_path / "run", time.monotonic()
    variables = {k: v for k, v in environment().items() if k != "WANDB_MODE"} | wrong
    program = (
        "import sys; from runs import tracking, train_dqn\n"
        "tracking.WAIT_SECONDS = 5\n"
        "sys.exit(train_dqn.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *WITH_WANDB, "--total-steps", "200", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=200)
    output = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in output, output
    assert "logging offline" in output and time.monotonic() - began < 60
    assert list(out.glob("wandb/offline-run-*")) and len(metrics(out)) >= 4


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    options = [option if option != "none" else "tensorboard" for option in TINY]
    run("runs.train_dqn", *options, "--total-steps", "300", "--out", str(out))
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("epsilon")] == [
        int(r["steps"]) for r in metrics(out) if r["epsilon"]
    ]


def test_tensorboard_keeps_the_row_that_a_run_goes_on_from(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = [*TINY, "--tracking", "tensorboard", "--checkpoint-every-steps", "100", "--out", str(tmp_path / "run")]
    assert train_dqn.main([*options, "--total-steps", "300"]) == 0
    assert train_dqn.main(["--resume", str(tmp_path / "run"), "--total-steps", "400"]) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("epsilon")] == list(range(50, 401, 50))


def test_a_full_disk_is_told_of_once_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(tracked=TrackingConfig(tracking="none"))
    tracker = Tracker(tmp_path, DQN_METRICS, config, "a", None, print)
    tracker.log({"steps": 1, "loss": 0.5})
    whole, rows = (tmp_path / "metrics.csv").read_text(), tmp_path / "metrics.csv"
    rows.unlink()
    rows.symlink_to("/dev/full")
    for steps in (2, 3):
        tracker.log({"steps": steps, "loss": 0.5})
    assert capsys.readouterr().out.count("No space left on device") == 1
    rows.unlink()
    rows.write_text(whole)
    tracker.log({"steps": 4, "loss": 0.5})
    assert [row["steps"] for row in metrics(tmp_path)] == ["1", "4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own thread
@pytest.mark.parametrize("tracking", ["wandb", "tensorboard"])
def test_a_tracker_that_fails_is_told_of_once_and_ends_nothing(
    tracking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as on a full disk, where W&B cannot write an evaluation's table."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = Tracker(tmp_path, DQN_METRICS, TrainConfig(tracked=TrackingConfig(tracking=tracking)), "a", None, print)
    limits, counts = resource.getrlimit(resource.RLIMIT_FSIZE), range(1, 400 if tracking == "tensorboard" else 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        for steps in counts:
            tracker.log({"steps": steps, "loss": 0.5})
            tracker.log_episodes([1.0] * 3_000, [1] * 3_000, steps)
        tracker.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().out
    assert said.count("failed") == 1 and "gets nothing more" in said and ("wandb sync" in said) == (tracking == "wandb")
    assert [int(row["steps"]) for row in metrics(tmp_path)] == list(counts)


def test_what_a_power_cut_left_is_cut_off(tmp_path: Path) -> None:
    config = TrainConfig(tracked=TrackingConfig(tracking="none"))
    Tracker(tmp_path, DQN_METRICS, config, "a", None, print).log({"steps": 1, "loss": 0.5})
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("\0" * 50 + "\n")
    Tracker(tmp_path, DQN_METRICS, config, "a", 1, print).log({"steps": 2, "loss": 0.5})
    assert [row["steps"] for row in metrics(tmp_path)] == ["1", "2"]


def test_a_tracker_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match="2"):
        train_dqn.main([*TINY, "--tracking", "tensorboard", "--out", str(out)])
    assert capsys.readouterr().err == "error: TensorBoard is not installed: pip install 'saccade[tensorboard]'\n"
    assert not out.exists()
