import csv
import dataclasses
import json
from pathlib import Path

import pytest
from commands import refused, run

from runs.transfer import Plan, TransferArgs

ALL = TransferArgs("pong", out=Path("nowhere"), seeds=2)


def test_a_plan_has_every_job_once_and_first_what_others_need() -> None:
    plan = Plan(ALL)
    jobs = list(plan.jobs())
    names = [str(job.folder.relative_to(plan.out)) for job in jobs]
    assert len(set(names)) == len(names) and names[0] == "data"
    for place, job in enumerate(jobs):
        needed = [option for option in job.command if option.startswith(str(plan.out))]
        assert all(str(Path(folder).relative_to(plan.out)) in names[: place + 1] for folder in needed)
    # Two seeds of: 1 recording; contrast and segmentation; probes of 5 sources; segmentation and a DQN, whole once,
    # random once, frozen and fine-tuned on each of three. Whole segmentation and the whole DQN are sources too.
    assert len(jobs) == 1 + 2 * (1 + 5 + (2 + 6) + (2 + 6))
    cells = {(cell.source, cell.variant, cell.target) for cell in plan.cells}
    assert ("dqn", "fine-tuned", "dqn") in cells and ("dqn", "fine-tuned", "probe") not in cells
    frozen = next(cell.job for cell in plan.cells if (cell.source, cell.target) == ("random-frozen", "dqn"))
    assert "--freeze-backbone-steps" in frozen.command and "--backbone" not in frozen.command
    assert 0.5 < plan.seconds_left() / 3600 < 24


def test_a_source_may_name_its_head() -> None:
    plan = Plan(dataclasses.replace(ALL, sources="autoencoding:variational", targets="probe", seeds=1))
    _, pretraining, probe = plan.jobs()
    assert pretraining.command[1:2] == ("autoencoding",) and pretraining.command[-2:] == ("--head", "variational")
    assert str(pretraining.folder) in probe.command and pretraining.folder.name == "autoencoding-variational-0"


def test_nothing_counts_twice_and_no_game_for_another(tmp_path: Path) -> None:
    once, twice = (Plan(dataclasses.replace(ALL, sources=sources)) for sources in ("none", "none,none"))
    assert [cell.job for cell in once.cells] == [cell.job for cell in twice.cells]
    Plan(dataclasses.replace(ALL, out=tmp_path)).open()
    with pytest.raises(ValueError, match="the same game"):
        Plan(dataclasses.replace(ALL, game="breakout", out=tmp_path)).check_sizes()


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'autoencoding:lstm' is none of none"):
        Plan(dataclasses.replace(ALL, sources="autoencoding:lstm"))
    with pytest.raises(ValueError, match="'dreams' is none of none"):
        Plan(dataclasses.replace(ALL, sources="none,dreams"))
    with pytest.raises(ValueError, match="'autoencoding' is none of probe"):
        Plan(dataclasses.replace(ALL, targets="autoencoding"))
    assert "nearest: pong" in refused("runs.transfer", "pogn", "--plan")


def test_a_small_table(tmp_path: Path) -> None:
    command = "runs.transfer breakout --from none,contrast --to probe --seeds 1 --updates 4 --record-steps 1600".split()
    assert "4 runs, 0 of them done" in run(*command, "--out", str(tmp_path), "--plan")
    printed = run(*command, "--out", str(tmp_path))
    assert "| contrast, frozen | 0." in printed and (tmp_path / "results.png").stat().st_size > 5_000
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["source"], row["variant"]) for row in rows] == [("none", "whole"), ("contrast", "frozen")]
    for row, name in zip(rows, ("probe-none-whole-0", "probe-contrast-frozen-0"), strict=True):
        test = json.loads((tmp_path / "perception" / name / "test.json").read_text())["test"]
        assert float(row["value"]) == test["f1_weighted"]
    assert "4 of them done; 0.0 hours left" in run(*command, "--out", str(tmp_path))
