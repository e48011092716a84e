"""Map the states of an episode as the network sees them: `python -m runs.state_map CHECKPOINT --out FILE.png`.

Each state is a point; states that the last hidden layer represents alike lie near each other (Mnih et al. 2015, figure
4). Points are coloured by the state's value, and some of them are shown.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro

from envs.config import Protocol
from runs.commands import PLOTS, need_writable, refusing_bad_input, run_command
from runs.config import Device
from runs.evaluate import check_play, load_player

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runs.playing import Played

LEAST_STEPS, COMPONENTS = 30, 50  # that make a map; principal components that t-SNE starts from
LEAST_SPREAD = 1e-6  # of some unit's answers; t-SNE needs places that differ
BESIDE, ABOVE = 3, 6  # thumbnails at each side, and above and below


@dataclass(frozen=True)
class StateMapArgs:
    """Map an episode's states by the last hidden layer, coloured by value, with some of them shown."""

    checkpoint: tyro.conf.Positional[Path]
    """An agent's checkpoint folder, or a run folder (its newest checkpoint)."""
    out: Path = Path("states.png")
    """The picture: PNG, SVG or PDF."""
    method: Literal["tsne", "pca"] = "tsne"
    """`tsne` (van der Maaten & Hinton 2008): neighbours stay together, distances between groups mean little. `pca`: the
    two directions in which the layer varies most."""
    perplexity: float = 30.0
    """Of t-SNE: about how many neighbours each state has."""
    most_steps: int = 2000
    """Steps at most of the episode."""
    protocol: Protocol | None = None
    """`classic` or `v5`; the one trained under when not given."""
    epsilon: float = 0.01
    """Share of random actions."""
    seed: int = 0
    """Of the game, the random actions and the map."""
    device: Device = "auto"
    """cpu, cuda, mps or auto."""


def main(args: StateMapArgs) -> int:
    """Play, map and draw; return the exit code."""
    with refusing_bad_input():
        check_play(1, args.epsilon, args.seed)
        need_writable(args.out, *PLOTS)
        if args.most_steps < LEAST_STEPS:
            raise ValueError(f"--most-steps {args.most_steps}: a map needs at least {LEAST_STEPS}")
        if args.perplexity < 1:
            raise ValueError(f"--perplexity {args.perplexity} must be at least 1")
        agent, env = load_player(args.checkpoint, args.protocol, args.device)
        from runs.playing import play_episode

        played = play_episode(agent, env, args.seed, args.epsilon, args.most_steps, colour=True)
        if len(played.frames) < LEAST_STEPS:
            raise ValueError(
                f"this episode has {len(played.frames)} steps, a map needs {LEAST_STEPS}: try another --seed"
            )
        every = range(0, len(played.frames), 256)
        hidden = np.concatenate([agent.hidden(played.frames[i : i + 256]).cpu() for i in every])
        if np.ptp(hidden, axis=0).max() < LEAST_SPREAD:
            raise ValueError("the last hidden layer answers alike to every state: there is nothing to map")
    places = lay_out(hidden, args.method, args.perplexity, args.seed)
    score = "not over" if played.score is None else f"score {played.score:g}"
    title = f"{env.game} ({env.protocol}): {len(places):,} states of an episode, {score}"
    draw_map(
        places,
        played,
        f"{title}; last hidden layer by {'t-SNE' if args.method == 'tsne' else 'PCA'}",
        args.out,
        args.seed,
    )
    print(args.out)
    return 0


def lay_out(hidden: "NDArray[np.floating]", method: str, perplexity: float, seed: int) -> "NDArray[np.float64]":
    """Return a place (N, 2) for each row of (N, units)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    kept = 2 if method == "pca" else min(COMPONENTS, *hidden.shape)
    places = PCA(kept, random_state=seed).fit_transform(hidden)
    if method == "tsne":
        few = min(perplexity, (len(hidden) - 1) / 3)
        places = TSNE(perplexity=few, init="pca", random_state=seed, n_jobs=1).fit_transform(places)
    return places


def typical(places: "NDArray[np.floating]", count: int, seed: int) -> list[int]:
    """Return the numbers of `count` of the places (N, 2), fewer if there are fewer: the middles of as many clusters."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin

    different = len(np.unique(places, axis=0))
    clusters = KMeans(min(count, different), random_state=seed).fit(places)
    return sorted(set(pairwise_distances_argmin(clusters.cluster_centers_, places).tolist()))


def border(across: int, down: int) -> "NDArray[np.float64]":
    """Return the middles (2 × (across + down), 2) of frames around the unit square: above, below, left and right."""
    x, y = (np.arange(across) + 0.5) / across, (np.arange(down) + 0.5) / down
    sides = [(x, np.full(across, 1.0)), (x, np.zeros(across)), (np.zeros(down), y), (np.ones(down), y)]
    return np.concatenate([np.stack(side, axis=1) for side in sides])


def draw_map(places: "NDArray[np.floating]", played: "Played", title: str, out: Path, seed: int) -> None:
    """Draw states at their places (N, 2) in the colour of their value; typical ones are shown around them.

    Which frame shows which is the assignment of the shortest lines, so that no two of them cross.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import ConnectionPatch
    from scipy.optimize import linear_sum_assignment

    figure = Figure(figsize=(13, 11))
    axes = figure.add_axes((0.16, 0.25, 0.68, 0.52))
    points = axes.scatter(*places.T, c=played.values, s=9, cmap="viridis", linewidths=0)
    axes.set(xticks=[], yticks=[], xmargin=0.04, ymargin=0.04)
    figure.suptitle(title, y=0.985)
    colours = figure.colorbar(points, cax=figure.add_axes((0.25, 0.025, 0.5, 0.012)), orientation="horizontal")
    colours.set_label("value of the state", labelpad=-36)
    frames = [_frame(x, y) for x, y in border(ABOVE, BESIDE)]
    shown = typical(places, len(frames), seed)
    ends = [(left + end[0] * width, bottom + end[1] * height) for (left, bottom, width, height), end in frames]
    axes.autoscale_view()  # which is put off until something is drawn, and the places with it
    starts = axes.transData.transform(places[shown])
    lengths = np.linalg.norm(starts[:, None] - figure.transFigure.transform(ends)[None], axis=2)
    for number, slot in zip(*linear_sum_assignment(lengths), strict=True):
        step, (where, end) = shown[number], frames[slot]
        frame = figure.add_axes(where)
        frame.imshow(played.screens[step], interpolation="nearest")
        frame.set(xticks=[], yticks=[])
        frame.set_title(f"step {step}, value {played.values[step]:.2f}", fontsize=8, pad=3)
        line = {"xyA": places[step], "coordsA": axes.transData, "xyB": end, "coordsB": frame.transAxes}
        figure.add_artist(ConnectionPatch(**line, color="0.55", linewidth=0.8, zorder=0.5))
        axes.scatter(*places[step], s=40, facecolors="none", edgecolors="black", linewidths=1.2)
    figure.savefig(out, dpi=110)


def _frame(x: float, y: float) -> tuple[tuple[float, float, float, float], tuple[float, float]]:
    """Return where the frame at a place of `border` lies, and where on it its line ends.

    Left, bottom, width and height in shares of the figure; across and up in shares of the frame.
    """
    width, height = 0.12, 0.15
    if x in (0, 1):
        return (0.015 if x == 0 else 0.985 - width, 0.27 + 0.5 * y - height / 2, width, height), (1.0 - x, 0.5)
    # Above a frame stand its words.
    return (0.02 + 0.96 * x - width / 2, 0.065 if y == 0 else 0.8, width, height), (0.5, 1.12 - 1.12 * y)


if __name__ == "__main__":
    run_command(main)
