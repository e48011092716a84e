"""Measure speed, side by side with SB3's DQN: `python -m runs.benchmark --json FILE`."""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runs.commands import need_writable, refusing_bad_input, run_command
from runs.config import Device, Precision
from runs.folders import whole_rows

# The work of both sides: NatureCNN, 32 samples an update, one update per 4 steps, the Adam optimizer.
BATCH_SIZE, STEPS_PER_UPDATE, TARGET_UPDATE_STEPS = 32, 4, 1_000
WARM_UP_STEPS = 1_000
SB3_CANDIDATES = (("DummyVecEnv", 1), ("DummyVecEnv", 8), ("SubprocVecEnv", 8))

Result = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkArgs:
    """Measure environment, learner and whole loop, interleaved with SB3's DQN at equal work; medians and ratios."""

    game: str = "pong"
    """The Atari game both sides play."""
    rounds: int = 3
    """How often each is measured; medians are shown."""
    steps: int = 3_000
    """Steps measured each time, after a warm-up."""
    num_envs: int = 16
    """Our environments side by side; SB3 gets the number that it is fastest with."""
    device: Device = "auto"
    """Where both networks live."""
    precision: Precision = "auto"
    """Ours; SB3 computes in float32."""
    json: Path | None = None
    """Write all measurements to this file."""


# Work of NatureCNN on 4×84×84 (Mnih et al. 2015): a forward pass, and an update of one sample, which is the target's
# forward pass, the online network's, and the way back without the gradient of the first layer's input.
FORWARD_FLOP, UPDATE_FLOP = 18.7e6, 68e6


def matrix_product(args: BenchmarkArgs) -> Result:
    """2048³ products in the run's precision, all cores together: what the processor gives at best."""
    import torch

    from runs import machine

    device = machine.choose_device(args.device)
    precision = machine.choose_precision(args.precision, device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.set_num_threads(machine.usable_cores())
    a = torch.randn(2048, 2048).to(device, dtype)

    def multiply(times: int) -> None:
        b = a
        for _ in range(times):
            b = a @ a
        b[0, 0].item()  # waits for the device

    multiply(3)
    times = 200 if device == "cuda" else 20
    began = time.perf_counter()
    multiply(times)
    return {"flop_per_second": times * 2 * 2048**3 / (time.perf_counter() - began), "precision": precision}


def bound(flop_per_second: float, environment_steps_per_second: float) -> float:
    """Return the steps/s at which products and emulation alone would fill the machine."""
    flop = BATCH_SIZE / STEPS_PER_UPDATE * UPDATE_FLOP + FORWARD_FLOP
    return 1 / (flop / flop_per_second + 1 / environment_steps_per_second)


def environment_only(args: BenchmarkArgs) -> Result:
    """Random actions, nothing learnt."""
    import numpy as np

    from envs.config import EnvConfig
    from envs.games import make_games

    games = make_games(EnvConfig(args.game), args.num_envs, seed=0)
    rng = np.random.default_rng(0)

    def play(steps: int) -> int:
        rounds = -(-steps // args.num_envs)
        for _ in range(rounds):
            games.step(rng.integers(games.num_actions, size=args.num_envs))
        return rounds * args.num_envs

    play(WARM_UP_STEPS)
    began = time.perf_counter()
    return {"steps_per_second": play(args.steps) / (time.perf_counter() - began), "work": "no updates"}


def learner_only(args: BenchmarkArgs) -> Result:
    """Updates on batches from a filled replay, nothing played; told as the steps that they would keep up with."""
    import numpy as np

    from agents.dqn import DQN
    from agents.replay import FrameReplay
    from runs import machine

    device = machine.choose_device(args.device)
    machine.settle_thread(machine.choose_threads(0, device))
    config = _train_config(args).agent
    agent = DQN(config, 6, device=device, precision=machine.choose_precision(args.precision, device))
    replay = FrameReplay(4_096, 8, device=device)
    rng, none = np.random.default_rng(0), np.zeros(8, np.bool_)
    for _ in range(512):
        frames = rng.integers(0, 256, (8, 84, 84), dtype=np.uint8)
        replay.add(frames, rng.integers(6, size=8), rng.normal(size=8).astype(np.float32), none, none, frames)

    def learn(updates: int) -> None:
        losses = [agent.learn(agent.prepare(replay.sample(BATCH_SIZE)))["loss"] for _ in range(updates)]
        losses[-1].item()  # waits for the device

    learn(20)
    updates = args.steps // STEPS_PER_UPDATE
    began = time.perf_counter()
    learn(updates)
    return {"steps_per_second": args.steps / (time.perf_counter() - began), "work": f"{updates} updates"}


def whole_loop(args: BenchmarkArgs, held_steps: int = WARM_UP_STEPS // 2) -> Result:
    """Our training loop as it runs for everybody; the numbers are those that its own `metrics.csv` tells.

    Learning starts with `held_steps` in the replay, and is measured after the warm-up more: a row that looks at the
    layers, which takes long the first time, was written by then.
    """
    from runs.dqn_run import new_run
    from runs.train_dqn import train

    spent: dict[str, float] = {}
    config = _train_config(args)
    agent = replace(
        config.agent,
        learning_starts_steps=held_steps,
        replay_capacity_steps=max(config.agent.replay_capacity_steps, held_steps),
    )
    start = held_steps + WARM_UP_STEPS
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(replace(config, agent=agent, total_steps=start + args.steps, out=Path(folder) / "run"))
        log = run.log

        def log_and_start_the_clock() -> bool:
            if run.steps < start + args.num_envs:
                spent.update(dict.fromkeys(spent, 0.0), whole=-time.perf_counter(), steps=-run.steps)
            return log()

        run.log = log_and_start_the_clock  # type: ignore[method-assign]
        _time(spent, "act", run.agent, "act")
        _time(spent, "emulate", run.games, "send", "receive")
        _time(spent, "store", run.replay, "add")
        _time(spent, "sample", run.replay, "sample")
        _time(spent, "target values", run.agent, "prepare")
        _time(spent, "wait for the learner", run, "finish_learning")
        _time(spent, "learn (its own thread)", run.agent, "learn_each")
        with run.display:
            train(run)
        whole, steps = spent.pop("whole") + time.perf_counter(), spent.pop("steps") + run.steps
        rows = whole_rows(Path(folder) / "run" / "metrics.csv")
    last = rows[-1]
    first = next(row for row in rows if int(row["steps"]) >= int(last["steps"]) - steps)
    updates = int(last["updates"]) - int(first["updates"])
    spent["the rest"] = whole - sum(share for name, share in spent.items() if "own thread" not in name)
    return {
        "steps_per_second": steps / (float(last["seconds"]) - float(first["seconds"])),
        "work": f"{steps:.0f} steps, {updates} updates of {BATCH_SIZE}",
        "ms_per_step": {name: 1e3 * share / steps for name, share in spent.items()},
        "memory_gb": float(last["memory_gb"]),
    }


def _time(spent: dict[str, float], name: str, owner: Any, *methods: str) -> None:
    """Let the owner's methods add the seconds that they take to `spent[name]`."""
    spent[name] = 0.0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            began = time.perf_counter()
            result = method(*args)
            spent[name] += time.perf_counter() - began
            return result

        return run

    for method in methods:
        setattr(owner, method, timed(getattr(owner, method)))


def _train_config(args: BenchmarkArgs) -> Any:
    from runs.presets import CLASSIC

    agent = replace(
        CLASSIC.agent,
        batch_size=BATCH_SIZE,
        steps_per_update=STEPS_PER_UPDATE,
        target_update_steps=TARGET_UPDATE_STEPS,
        learning_starts_steps=WARM_UP_STEPS // 2,
        replay_capacity_steps=10_000,
    )
    return replace(
        CLASSIC,
        env=replace(CLASSIC.env, game=args.game),
        agent=agent,
        tracked=replace(CLASSIC.tracked, tracking="none"),
        num_envs=args.num_envs,
        device=args.device,
        precision=args.precision,
        log_every_steps=WARM_UP_STEPS // 2,
        checkpoint_every_steps=0,
        evaluate_every_steps=0,
    )


def _sb3_name(game: str) -> str:
    """Return what SB3's users call a game."""
    return "".join(word.capitalize() for word in game.split("_")) + "NoFrameskip-v4"


def sb3(args: BenchmarkArgs, vec_env: str, num_envs: int) -> Result:
    """SB3's DQN with CnnPolicy on its own Atari wrappers, its threads and everything else as it comes."""
    import ale_py
    import gymnasium
    from stable_baselines3 import DQN
    from stable_baselines3.common import vec_env as vec_envs
    from stable_baselines3.common.env_util import make_atari_env

    gymnasium.register_envs(ale_py)
    kind = getattr(vec_envs, vec_env)
    # Forked, since the games registered above are known to this process alone.
    options = {"start_method": "fork"} if vec_env == "SubprocVecEnv" else {}
    atari = make_atari_env(_sb3_name(args.game), n_envs=num_envs, seed=0, vec_env_cls=kind, vec_env_kwargs=options)
    envs = vec_envs.VecFrameStack(atari, n_stack=4)
    model = DQN(
        "CnnPolicy",
        envs,
        learning_rate=1e-4,
        batch_size=BATCH_SIZE,
        buffer_size=10_000,
        learning_starts=WARM_UP_STEPS // 2,
        train_freq=max(1, STEPS_PER_UPDATE // num_envs),  # counted in steps of all environments
        gradient_steps=max(1, num_envs // STEPS_PER_UPDATE),
        target_update_interval=TARGET_UPDATE_STEPS,
        device=args.device,
    )
    model.learn(WARM_UP_STEPS)
    updates = model._n_updates
    measured = args.steps // 2  # it is the slower one
    began = time.perf_counter()
    model.learn(measured, reset_num_timesteps=False)
    seconds = time.perf_counter() - began
    envs.close()
    work = f"{measured} steps, {model._n_updates - updates} updates of {BATCH_SIZE}"
    return {"steps_per_second": measured / seconds, "work": work, "setting": f"{vec_env} × {num_envs}"}


def measured_alone(function: Callable[..., Result], *args: Any) -> Result:
    """Run `function` in a process of its own, so that neither side's threads and settings touch the other's."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"measuring {function.__name__} failed; its own message is above") from error
    finally:
        process.join()


def _send_result(sender: Any, function: Callable[..., Result], args: tuple[Any, ...]) -> None:
    sender.send(function(*args))


def main(args: BenchmarkArgs) -> int:
    """Measure, print the table, return the exit code."""
    with refusing_bad_input():
        import gymnasium

        from envs.atari import check_game

        check_game(args.game)
        if _sb3_name(args.game) not in gymnasium.registry:
            raise ValueError(f"SB3's DQN cannot play {args.game}: Gymnasium has no '{_sb3_name(args.game)}'")
        if args.rounds < 1 or args.steps < WARM_UP_STEPS:
            raise ValueError(f"need --rounds of at least 1 and --steps of at least {WARM_UP_STEPS}")
        if args.num_envs < 1:
            raise ValueError(f"--num-envs {args.num_envs} must be at least 1")
        need_writable(args.json)
    measured = measure(args)
    if args.json is not None:
        args.json.write_text(json.dumps(measured, indent=1))
    tell(args, measured)
    return 0


def measure(args: BenchmarkArgs) -> dict[str, Any]:
    """Measure everything, both sides in turn; return what each round gave, and what follows from it."""
    os.environ.pop("OMP_WAIT_POLICY", None)  # ours to set for our side alone
    probes = [measured_alone(sb3, args, *candidate) for candidate in SB3_CANDIDATES]
    fastest = SB3_CANDIDATES[max(range(len(probes)), key=lambda i: probes[i]["steps_per_second"])]
    results: dict[str, list[Result]] = {"environment": [], "learner": [], "loop": [], "sb3": []}
    products = []
    for _ in range(args.rounds):
        products.append(measured_alone(matrix_product, args))
        results["loop"].append(measured_alone(whole_loop, args))
        results["sb3"].append(measured_alone(sb3, args, *fastest))
        results["environment"].append(measured_alone(environment_only, args))
        results["learner"].append(measured_alone(learner_only, args))
    medians = {name: statistics.median(r["steps_per_second"] for r in every) for name, every in results.items()}
    both = zip(results["loop"], results["sb3"], strict=True)
    flop_per_second = statistics.median(product["flop_per_second"] for product in products)
    parts = results["loop"][0]["ms_per_step"]
    return {
        "hardware": measured_alone(_hardware),
        "medians": medians,
        "ratios": [ours["steps_per_second"] / theirs["steps_per_second"] for ours, theirs in both],
        "results": results,
        "sb3_probes": probes,
        "bound": bound(flop_per_second, medians["environment"]),
        "flop_per_second": flop_per_second,
        "precision": products[0]["precision"],
        "ms_per_step": {name: statistics.median(r["ms_per_step"][name] for r in results["loop"]) for name in parts},
    }


def tell(args: BenchmarkArgs, measured: dict[str, Any]) -> None:
    """Print what `measure` returned."""
    from rich.table import Table

    from runs.progress import console

    hardware, medians, results = (measured[name] for name in ("hardware", "medians", "results"))
    wide = console(width=110)
    chips = ", ".join(hardware[chip] for chip in ("gpu", "processor") if chip in hardware)
    table = Table(title=f"{args.game}, steps/s, median of {args.rounds}: {chips}, {hardware['cores']} cores")
    for column in ("what", "steps/s", "ratio to SB3", "share of the bound", "work measured"):
        table.add_column(column)
    titles = {
        "environment": "environment only",
        "learner": "learner only",
        "loop": "whole loop",
        "sb3": f"SB3 DQN, {results['sb3'][0]['setting']}",
    }
    for name, title in titles.items():
        ratio, share = medians[name] / medians["sb3"], medians[name] / measured["bound"]
        table.add_row(title, f"{medians[name]:,.0f}", f"{ratio:.2f}", f"{share:.0%}", results[name][0]["work"])
    wide.print(table)
    wide.print(f"whole loop / SB3, round by round: {', '.join(f'{ratio:.2f}' for ratio in measured['ratios'])}")
    wide.print(
        f"bound: {measured['bound']:,.0f} steps/s, of {measured['flop_per_second'] / 1e12:.2f} TFLOP/s "
        f"({measured['precision']}, 2048³) for {BATCH_SIZE / STEPS_PER_UPDATE:g} samples of {UPDATE_FLOP / 1e6:g} "
        "MFLOP a step, and of the environment alone"
    )
    wide.print("ms a step: " + ", ".join(f"{name} {ms:.2f}" for name, ms in measured["ms_per_step"].items()))


def _hardware() -> Result:
    from runs import machine

    return dict(machine.versions())


if __name__ == "__main__":
    run_command(main)
