"""What `--check` does before training: a table of what holds of data, network and loss, with reasons."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from agents.losses import huber, td_error
from agents.updates import PreparedBatch
from perception.diagnostics import Check, check_gradients, check_initial_loss, check_inputs, check_overfitting
from runs import dqn_run, perception_run
from runs.commands import refusing_bad_input
from runs.config import TrainConfig
from runs.perception_config import PerceptionConfig
from runs.progress import console

FAILED = 1
SAMPLES, FEW = 64, 8
SMALL_VALUE = 1.0  # in size, of a fresh network; rewards are clipped to it


def check(config: TrainConfig | PerceptionConfig) -> int:
    """Print the table; return 0 where all holds, 1 where something does not. Nothing is trained or kept."""
    with tempfile.TemporaryDirectory() as folder:
        throwaway = {"out": Path(folder) / "run", "tracked": config.tracked.sent_to("none")}
        if isinstance(config, PerceptionConfig) and config.task == "classification":
            throwaway["label_spread"] = 0.0  # soft labels leave a loss that nobody can learn away
        config = replace(config, **throwaway)
        with refusing_bad_input():
            run = dqn_run.new_run(config) if isinstance(config, TrainConfig) else perception_run.new_run(config)
        checks = _of_agent(run) if isinstance(run, dqn_run.DQNRun) else _of_perception(run)
    table = Table("check", "", "reason")
    for each in checks:
        table.add_row(each.name, {True: "pass", False: "FAIL", None: "–"}[each.passed], each.reason)
    console().print(table)
    return FAILED if any(each.passed is False for each in checks) else 0


def _of_perception(run: perception_run.PerceptionRun) -> list[Check]:
    task, network, data, device = run.task, run.network.eval(), run.data, run.config.device
    train = data.splits["train"]

    def taken(count: int) -> tuple[Tensor, Tensor]:
        return data.take(train[np.linspace(0, len(train) - 1, min(count, len(train))).astype(np.int64)], device)

    def loss_of(images: Tensor, targets: Tensor) -> Callable[[nn.Module], Tensor]:
        def loss(learner: nn.Module) -> Tensor:
            torch.manual_seed(0)  # what a task draws at random is the same each time
            return task.loss(learner, images, targets)  # type: ignore[arg-type]

        return loss

    images, targets = taken(SAMPLES)
    few = loss_of(*taken(FEW))
    with torch.no_grad():
        first = float(loss_of(images, targets)(network))
    checks = [check_inputs(images), check_initial_loss(first, task.guess_loss(len(images)), "knowing nothing")]
    if run.config.task == "gan":
        return [*checks, Check("overfitting", None, "two losses pull at each other")]
    if run.config.task in ("autoencoding", "contrast"):
        endless = Check("overfitting", None, "this loss does not come near 0 even where all is known by heart")
        return [*checks, endless, check_gradients(network, few)]
    return [*checks, check_overfitting(network, few, run.rate), check_gradients(network, few)]


def _of_agent(run: dqn_run.DQNRun) -> list[Check]:
    agent, replay, games = run.agent, run.replay, run.games
    try:
        while replay.rows_written().min() <= SAMPLES + replay.n_steps:
            frames, actions = games.frames[:, -1], agent.act(games.frames, epsilon=1.0).cpu().numpy()
            games.send(actions)
            seen = games.receive()
            ended = seen.terminated | seen.truncated
            replay.add(frames, actions, seen.rewards, seen.terminated, ended, seen.last_frames)
    finally:
        games.close()
    prepared = agent.prepare(replay.sample(SAMPLES))
    inputs, values = check_inputs(prepared.frames_tm1), float(agent.q_values(prepared.frames_tm1).abs().mean())
    about = f"{values:.3f} in size on average, rewards are clipped to 1"
    cause = "" if values < SMALL_VALUE else ": the usual cause is that the last layer's weights are too large"

    # Returns that nothing in the frames tells of: only a network that learns by heart comes near them.
    few = PreparedBatch(*(part[:FEW] for part in prepared))
    alike = few.frames_tm1.flatten(1).unique(dim=0, return_inverse=True)[1]  # the same state has the same return
    returns = torch.linspace(-1, 1, FEW, device=agent.device)[alike]
    few = few._replace(a_tm1=torch.zeros_like(few.a_tm1), r_t=returns, discount_t=torch.zeros_like(few.r_t))
    plain = agent.differentiable().requires_grad_(True)

    def loss(learner: nn.Module) -> Tensor:
        q_tm1 = learner(few.frames_tm1)
        return huber(td_error(q_tm1, few.a_tm1, few.r_t, few.discount_t, few.q_t)).mean()

    return [
        inputs,
        Check("initial values", values < SMALL_VALUE, about + cause),
        check_overfitting(plain, loss, agent.config.learning_rate),
        check_gradients(plain, loss),
    ]
