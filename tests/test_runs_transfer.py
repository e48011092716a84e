import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from commands import refused, run

from runs.machine import usable_cores
from runs.transfer import draw
from runs.transfer_plan import Cell, Plan, TransferArgs

ALL = TransferArgs("pong", out=Path("nowhere"), seeds=2)


def test_a_plan_has_every_job_once_and_first_what_others_need() -> None:
    plan = Plan(ALL)
    jobs = plan.jobs()
    names = [str(job.folder.relative_to(plan.out)) for job in jobs]
    assert len(set(names)) == len(names) and names[0] == "data"
    for place, job in enumerate(jobs):
        read = {option for option in job.command if option.startswith(str(plan.out))} - {str(job.folder)}
        assert read == {str(need.folder) for need in job.needs}
        assert set(job.needs) <= set(jobs[:place])
    # Two seeds of: 1 recording; contrast and segmentation; probes of 5 sources; segmentation and a DQN, whole once,
    # random once, frozen and fine-tuned on each of three. Whole segmentation and the whole DQN are sources too.
    assert len(jobs) == 1 + 2 * (1 + 5 + (2 + 6) + (2 + 6))
    cells = {(cell.source, cell.variant, cell.target) for cell in plan.cells}
    assert ("dqn", "fine-tuned", "dqn") in cells and ("dqn", "fine-tuned", "probe") not in cells
    frozen = plan.cells[Cell("random-frozen", "frozen", "dqn", 0)]
    assert "--freeze-backbone-steps" in frozen.command and "--backbone" not in frozen.command
    assert 0.5 < plan.seconds_left() / 3600 < 24
    for cell, job in plan.cells.items():
        given = " ".join(job.command) + " "
        assert f" --seed {cell.seed} " in given
        assert (" --head linear " in given) == (cell.target == "probe")
        still = " --freeze-backbone-steps 200000 " if cell.target == "dqn" else " --freeze "
        assert (still in given) == (cell.variant == "frozen")
        slower = cell.target == "dqn" and cell.variant == "fine-tuned"
        assert (" --backbone-learning-rate 1e-4 " in given) == slower


def test_a_source_may_name_its_head() -> None:
    plan = Plan(dataclasses.replace(ALL, sources="autoencoding:variational", targets="probe", seeds=1))
    _, pretraining, probe = plan.jobs()
    assert pretraining.command[1] == "autoencoding" and " --head variational " in " ".join(pretraining.command)
    assert str(pretraining.folder) in probe.command and pretraining.folder.name == "autoencoding-variational-0"


def test_nothing_counts_twice_and_no_game_for_another(tmp_path: Path) -> None:
    once, twice = (Plan(dataclasses.replace(ALL, sources=sources)) for sources in ("none", "none,none"))
    assert once.cells == twice.cells
    Plan(dataclasses.replace(ALL, out=tmp_path)).open()
    with pytest.raises(ValueError, match="the same game"):
        Plan(dataclasses.replace(ALL, game="breakout", out=tmp_path)).read_results()


def test_of_runs_that_are_done_the_results_are_enough(tmp_path: Path) -> None:
    table = dataclasses.replace(ALL, out=tmp_path, targets="probe,dqn", seeds=1)
    plan = Plan(table)
    curves = {cell: [(100, 1.5)] if cell.target == "probe" else [(25, -2.0), (50, 0.25)] for cell in plan.cells}
    plan.results = dict(curves)
    plan.write()
    with pytest.raises(ValueError, match="copy both"):
        Plan(table).read_results()
    plan.open()
    again = Plan(table)
    again.read_results()
    assert again.results == curves and not again.left() and again.seconds_left() == 0
    assert draw(again).stat().st_size > 10_000
    # What a missing cell reads is made again, and nothing else.
    missing = Cell("dqn", "frozen", "probe", 0)
    lines = (tmp_path / "results.csv").read_text().splitlines(keepends=True)
    (tmp_path / "results.csv").write_text("".join(line for line in lines if not line.startswith("dqn,frozen,probe")))
    again = Plan(table)
    again.read_results()
    assert [job.folder.name for job in again.left()] == ["data", "none-0", "probe-dqn-frozen-0"]
    assert again.left()[-1] == again.cells[missing] and len(again.results) == len(curves) - 1
    (tmp_path / "results.csv").write_text("source,value\n")
    with pytest.raises(ValueError, match="move it away"):
        Plan(table).read_results()


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'autoencoding:lstm' is none of none"):
        Plan(dataclasses.replace(ALL, sources="autoencoding:lstm"))
    with pytest.raises(ValueError, match="'dreams' is none of none"):
        Plan(dataclasses.replace(ALL, sources="none,dreams"))
    with pytest.raises(ValueError, match="'autoencoding' is none of probe"):
        Plan(dataclasses.replace(ALL, targets="autoencoding"))
    with pytest.raises(ValueError, match="--at-once 0 must be 1 to "):
        Plan(dataclasses.replace(ALL, at_once=0))
    assert "nearest: pong" in refused("runs.transfer", "pogn", "--plan")


def test_a_small_table(tmp_path: Path) -> None:
    command = "runs.transfer breakout --from none,contrast --to probe --seeds 1 --updates 4 --record-steps 1600".split()
    said = run(*command, "--out", str(tmp_path), "--plan")
    assert "4 runs of 4 updates or 200,000 steps each, 4 of them left" in said
    printed = run(*command, "--out", str(tmp_path), "--at-once", str(min(2, usable_cores())))
    assert "none: F1 of a linear probe 0." in printed and "| contrast, frozen | 0." in printed
    assert (tmp_path / "results.png").stat().st_size > 5_000
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["source"], row["variant"]) for row in rows] == [("none", "whole"), ("contrast", "frozen")]
    for row, name in zip(rows, ("probe-none-whole-0", "probe-contrast-frozen-0"), strict=True):
        test = json.loads((tmp_path / "perception" / name / "test.json").read_text())["test"]
        assert float(row["value"]) == test["f1_weighted"] and row["steps"] == "4"
    shutil.rmtree(tmp_path / "perception")
    assert "0 of them left" in run(*command, "--out", str(tmp_path))
