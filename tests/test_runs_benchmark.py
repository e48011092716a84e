import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import refused

from runs.benchmark import BenchmarkArgs, Result, bound, main, matrix_product, measured_alone, sb3, whole_loop
from runs.scaling import draw, sb3_replay_memory


def test_bound_against_a_hand_worked_sum() -> None:
    # 8 samples of 68 MFLOP and one forward pass of 18.7 are 562.7 MFLOP: 0.7123 ms; with 0.1 ms to emulate 0.8123 ms
    assert bound(0.79e12, 10_000) == pytest.approx(1231, abs=0.5)


def test_the_loop_is_measured_after_its_warm_up_and_its_parts_add_up() -> None:
    result = measured_alone(whole_loop, BenchmarkArgs(steps=1_000, num_envs=8, device="cpu"), 1_000)
    assert result["work"] == "1000 steps, 250 updates of 32"
    parts = result["ms_per_step"]
    assert sum(ms for name, ms in parts.items() if "own thread" not in name) == pytest.approx(
        1e3 / result["steps_per_second"], rel=0.1
    )
    assert all(ms > 0 for ms in parts.values()), parts
    assert parts["learn (its own thread)"] > 0.1 and 0.2 < result["memory_gb"] < 5


@pytest.mark.parametrize("num_envs", [1, 8])
def test_sb3_does_the_same_work(num_envs: int) -> None:
    """Of a step half as many are measured: an update of 32 for every four of them."""
    result = measured_alone(sb3, BenchmarkArgs(steps=400, device="cpu"), "DummyVecEnv", num_envs)
    assert result["work"] == "200 steps, 50 updates of 32" and result["steps_per_second"] > 1


def test_the_table_is_of_medians_and_of_the_fastest_sb3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three rounds: of ours 300, 500, 400 steps/s, of SB3's fastest setting 100 each time."""
    ours = iter([300.0, 500.0, 400.0])

    def told(function: Callable[..., Result], *args: Any) -> Result:
        speed = {"environment_only": 10_000.0, "learner_only": 600.0}.get(function.__name__, 0.0)
        if function.__name__ == "whole_loop":
            speed = next(ours)
        if function.__name__ == "sb3":
            speed = 100.0 if args[1:] == ("DummyVecEnv", 8) else 50.0
        hardware = {"processor": "some", "cores": "2"} if function.__name__ == "_hardware" else {}
        parts = {"act": 1.0, "learn (its own thread)": speed}
        about = {"work": "work", "setting": " × ".join(map(str, args[1:])), "ms_per_step": parts, "precision": "bf16"}
        return hardware or about | {"steps_per_second": speed, "flop_per_second": 0.79e12}

    monkeypatch.setattr("runs.benchmark.measured_alone", told)
    file = tmp_path / "speed.json"
    assert main(BenchmarkArgs(rounds=3, json=file)) == 0
    measured = json.loads(file.read_text())
    assert measured["medians"] == {"environment": 10_000, "learner": 600, "loop": 400, "sb3": 100}
    assert measured["ratios"] == [3, 5, 4] and measured["bound"] == pytest.approx(1231, abs=0.5)
    assert measured["ms_per_step"]["learn (its own thread)"] == 400
    printed = capsys.readouterr().out
    assert "SB3 DQN, DummyVecEnv × 8" in printed and "3.00, 5.00, 4.00" in printed and "4.00" in printed
    assert "32%" in printed  # 400 of 1,231


def test_the_matrix_product_is_within_what_processors_do() -> None:
    assert 1e9 < measured_alone(matrix_product, BenchmarkArgs(device="cpu"))["flop_per_second"] < 1e14


def test_sb3s_replay_takes_two_stacks_a_step() -> None:
    assert measured_alone(sb3_replay_memory, 2_000)["memory_gb"] == pytest.approx(2_000 * 2 * 28_224 / 1e9, rel=0.2)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    held = {10_000: {"steps_per_second": 90.0, "memory_gb": 1.0}, 100_000: {"steps_per_second": 80.0, "memory_gb": 2.0}}
    draw({1: [50.0], 8: [90.0]}, held, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 5_000


def test_values_that_cannot_be_measured_are_refused() -> None:
    assert "--environments" in refused("runs.scaling", "--environments", "0")
    assert "--steps of at least" in refused("runs.scaling", "--steps", "0")
    assert "lower --held-steps" in refused("runs.scaling", "--held-steps", "1000000000000")
    assert "Gymnasium has no 'PacmanNoFrameskip-v4'" in refused("runs.benchmark", "--game", "pacman")
    assert "no folder" in refused("runs.scaling", "--picture", "nowhere/at/all.png")
    assert "--steps" in refused("runs.benchmark", "--steps", "10")
