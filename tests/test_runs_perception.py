"""The perception loop as a whole: data, training, stops and resumes, evaluating, predicting, handing backbones on."""

import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from commands import ROOT, TINY, metrics, refused, run, start
from PIL import Image
from safetensors.torch import load_file

from perception.backbones import BACKBONES
from perception.captioning import decode
from perception.classification import UNSEEN
from perception.datasets import Dataset, DatasetError
from perception.gan import GAN, GANHead
from perception.segmentation import VOID
from runs import evaluate, train_dqn, train_perception
from runs.checkpoints import CheckpointWriter, fold_spectral_norm, load_backbone_weights, load_tensors
from runs.config import TrackingConfig
from runs.datasets import MEASURED, open_dataset
from runs.evaluate import EvaluateArgs
from runs.perception_config import OPTIONS_OF, PerceptionConfig
from runs.perception_run import new_run
from runs.picture_sets import read_picture

RECORD = "runs.record_frames --games breakout,qbert --steps 1600 --seed 1".split()
SHORT = (
    "--total-updates 12 --batch-size 8 --evaluate-every-updates 6 --checkpoint-every-updates 4 "
    "--log-every-updates 5 --tracking none"
).split()


RUNS = ("digits", "variables", "segmentation", "captioning", "autoencoding", "contrast", "gan", "dqn")


FEW = 60  # pictures of what a gan draws that are measured here


@pytest.fixture(autouse=True)
def few_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs.datasets.MEASURED", FEW)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames") / "recorded"
    run(*RECORD, "--out", str(folder))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, recorded: Path) -> dict[str, Path]:
    """A run of each task, and of the agent."""
    folder = tmp_path_factory.mktemp("runs")
    folders = {name: folder / name for name in RUNS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runs.datasets.MEASURED", FEW)
        for name, to in folders.items():
            task = "classification" if name in ("digits", "variables") else name
            data = ["--data", "digits", "--image-size", "36"] if name == "digits" else ["--data", str(recorded)]
            if name != "dqn":
                assert train_perception.main([task, *SHORT, *data, "--out", str(to)]) == 0
    assert train_dqn.main([*TINY, "--out", str(folders["dqn"])]) == 0
    return folders


def backbone_of(run_folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = run_folder / "checkpoints" / (run_folder / "checkpoints" / "latest").read_text().strip()
    weights = load_file(checkpoint / "weights.safetensors")
    return fold_spectral_norm({name: weight for name, weight in weights.items() if name.startswith("backbone.")})


def test_a_run_leaves_what_it_says(trained: dict[str, Path]) -> None:
    folder = trained["variables"]
    rows = metrics(folder)
    assert [int(row["updates"]) for row in rows if row["loss"]] == [5, 10, 12]
    assert [int(row["updates"]) for row in rows if row["validation_loss"]] == [6, 12]
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == ["12.png", "6.png"]
    result = json.loads((folder / "test.json").read_text())
    assert {"test", "majority"} <= result.keys() and "f1_ball_x" in result["test"]
    assert "f1_ball_x" in result["random-frozen"]
    assert all(0 <= value <= 1 for name, value in result["test"].items() if name != "loss")
    assert (folder / "test.png").exists() and (folder / "best" / "weights.safetensors").exists()


# What a source leaves is read in one place, and a target asks for 1 or 4 channels: from everywhere to one of each, and
# from one of each to everywhere.
PAIRS = [(a, b) for a in RUNS for b in RUNS if b in ("digits", "dqn") or a in ("digits", "dqn")]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_backbone_goes_everywhere(
    trained: dict[str, Path], recorded: Path, tmp_path: Path, source: str, target: str
) -> None:
    """Frozen, it comes out as it went in, but for the number of channels that it looks at."""
    out, given = tmp_path / "out", str(trained[source])
    if target == "dqn":
        options = ["--backbone", given, "--freeze-backbone-steps", "100000", "--checkpoint-every-steps", "0"]
        assert train_dqn.main([*TINY, *options, "--total-steps", "160", "--out", str(out)]) == 0
    else:
        config = PerceptionConfig(
            task="classification" if target in ("digits", "variables") else target,  # type: ignore[arg-type]
            data="digits" if target == "digits" else str(recorded),
            image_size=36 if target == "digits" else 0,
            backbone=given,
            freeze=True,
            batch_size=4,
            num_threads=1,
            tracked=TrackingConfig(tracking="none"),
            out=out,
        )
        learning = new_run(config)
        learning.begin()
        learning.learn(*learning.next_batch())
        assert learning.save() is not None
        learning.close()
    before, after = backbone_of(trained[source]), backbone_of(out)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        if weight.shape == after[name].shape:
            assert torch.equal(weight, after[name]), name
        else:
            assert weight.ndim == 4 and {source, target} & {"digits"}
            torch.testing.assert_close(weight.sum(dim=1), after[name].sum(dim=1))


@pytest.mark.parametrize("task", ["segmentation", "captioning", "autoencoding", "contrast", "gan"])
def test_a_sound_task_passes_its_check(recorded: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_perception.main([task, "--data", str(recorded), "--check"]) == 0
    assert ("gradients" in capsys.readouterr().out) == (task != "gan")


@pytest.mark.parametrize("task", ["classification", "segmentation", "gan"])
def test_killed_and_resumed_it_ends_as_if_it_never_was(
    recorded: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.datasets.MEASURED", MEASURED)  # as in the process that is killed
    options = [*SHORT, "--no-baselines", "--num-threads", "1", "--data", str(recorded)]
    options += ["--dropout", "0.5"] * (task in OPTIONS_OF["dropout"])
    options += ["--head", "vae-gan", "--warm-up-updates", "10"] if task == "gan" else []
    options[options.index("12")] = "24"
    options[options.index("6")] = "12"
    assert train_perception.main([task, *options, "--out", str(tmp_path / "whole")]) == 0
    cut = tmp_path / "cut"
    process = start("runs.train_perception", task, *options, "--out", str(cut))
    while not (cut / "checkpoints" / "latest").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (cut / "test.json").exists()
    assert train_perception.main(["--resume", str(cut)]) == 0
    for name, weight in load_tensors(tmp_path / "whole" / "checkpoints" / "24" / "weights.safetensors").items():
        assert torch.equal(weight, load_tensors(cut / "checkpoints" / "24" / "weights.safetensors")[name]), name
    for whole, resumed in zip(metrics(tmp_path / "whole"), metrics(cut), strict=True):
        for name in ("updates", "loss", "validation_loss", "accuracy"):
            assert whole[name] == resumed[name]
    assert "is at update 24" in refused("runs.train_perception", "--resume", str(cut))


def test_a_run_that_is_stopped_before_its_first_update_goes_on(tmp_path: Path) -> None:
    tracked = TrackingConfig(tracking="none")
    begun = new_run(
        PerceptionConfig("classification", "digits", backbone="lenet", tracked=tracked, out=tmp_path / "run")
    )
    begun.begin()
    assert begun.save() is not None
    begun.close()
    del begun  # and its lock
    assert train_perception.main(["--resume", str(tmp_path / "run"), "--total-updates", "4"]) == 0


def test_a_signal_saves_and_says_how_to_go_on(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*SHORT, "--data", str(recorded), "--out", str(out)]
    options[options.index("12")] = "100000"
    process = start("runs.train_perception", "segmentation", *options)
    while not (out / "checkpoints" / "latest").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "--resume" in output, output


def test_a_run_that_nobody_reads_is_tested_all_the_same(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("runs.train_perception", "segmentation", *SHORT, "--data", str(recorded), "--out", str(out))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(100) == 0 and (out / "test.json").exists()


def test_digits_in_a_few_hundred_updates(tmp_path: Path) -> None:
    options = "--data digits --backbone convnet --total-updates 250 --evaluate-every-updates 125 --tracking none"
    printed = run("runs.train_perception", "classification", *options.split(), "--out", str(tmp_path / "run"))
    assert "majority" in printed
    result = json.loads((tmp_path / "run" / "test.json").read_text())
    assert result["test"]["accuracy"] > 0.93 and result["majority"]["accuracy"] < 0.12
    first = next(row for row in metrics(tmp_path / "run") if row["loss"])
    assert float(first["loss"]) < math.log(10) + 0.1


def test_evaluate_and_predict(trained: dict[str, Path], tmp_path: Path) -> None:
    for task in RUNS[1:-1]:
        found = tmp_path / f"{task}.json"
        assert evaluate.main(EvaluateArgs(trained[task] / "best", json=found)) == 0
        told, result = json.loads((trained[task] / "test.json").read_text())["test"], json.loads(found.read_text())
        assert {name: result[name] for name in told} == pytest.approx(told, rel=0.01), task
    picture = tmp_path / "seen.png"
    lines = run("runs.predict", str(trained["segmentation"]), "--game", "breakout", "--out", str(picture)).splitlines()
    assert sum(line.startswith("step ") for line in lines) == 12 and Image.open(picture).width > 500
    file = tmp_path / "digit.png"
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(file)
    assert "class " in run("runs.predict", str(trained["digits"]), str(file))
    for task in ("captioning", "autoencoding", "contrast", "gan"):
        run("runs.predict", str(trained[task]), "--game", "breakout", "--steps", "40", "--out", str(picture))
        assert Image.open(picture).width > 300
    run("runs.predict", str(trained["gan"]), "--out", str(picture))
    assert Image.open(picture).height > 500


def test_games_side_by_side(recorded: Path, tmp_path: Path) -> None:
    """Told apart by a classification, which then judges whether a gan draws all of them."""
    for task in ("classification", "gan"):
        data = open_dataset(task, str(recorded), "all", 0)
        assert data.name == "breakout+qbert" and data.names == (
            {} if task == "gan" else {"class": ["breakout", "qbert"]}
        )
    apart = open_dataset("classification", str(recorded), "all", 0)
    for number, game in enumerate(("breakout", "qbert")):
        alone = open_dataset("gan", str(recorded), game, 0)
        for split, at in apart.splits.items():
            mine = at[apart.targets[at, 0] == number]
            assert len(mine) and np.array_equal(np.sort(mine), mine)
            assert set(alone.splits[split]) <= set(mine - 1600 * number)
            assert np.array_equal(apart.images(mine[:50]), alone.images(mine[:50] - 1600 * number))
    everything = np.arange(1590, 1610)
    assert np.array_equal(apart.images(everything)[[0, -1]], apart.images(everything[[0, -1]]))
    card = recorded / "card.json"
    whole = card.read_text()
    card.write_text(json.dumps(json.loads(whole) | {"games": ["breakout"]}))
    with pytest.raises(DatasetError, match="is of breakout alone"):
        open_dataset("classification", str(recorded), "all", 0)
    card.write_text(whole)
    common = [*SHORT, "--num-threads", "1", "--data", str(recorded), "--game", "all", "--no-baselines"]
    assert train_perception.main(["classification", *common, "--out", str(tmp_path / "judge")]) == 0
    judged = ["--judge", str(tmp_path / "judge")]
    assert train_perception.main(["gan", *common, *judged, "--out", str(tmp_path / "gan")]) == 0
    assert json.loads((tmp_path / "gan" / "test.json").read_text())["test"]["modes"] in (0, 1, 2)
    assert Image.open(tmp_path / "gan" / "over-time.png").height > 150
    assert evaluate.main(EvaluateArgs(tmp_path / "gan" / "best")) == 0
    name, weights = load_backbone_weights(str(tmp_path / "gan"), 4)
    BACKBONES[name](4).load_state_dict(weights)  # type: ignore[call-arg]


def test_a_collapsed_generator_has_one_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the noise is a constant the count says so; where real digits are drawn it says ten."""
    options = "--data digits --backbone convnet --total-updates 200 --evaluate-every-updates 200 --tracking none"
    judge = [*options.split(), "--no-baselines", "--num-threads", "1", "--out", str(tmp_path / "judge")]
    assert train_perception.main(["classification", *judge]) == 0
    digits = open_dataset("gan", "digits", None, 32)

    def modes(name: str) -> tuple[float, float]:
        gan = ["--data", "digits", "--backbone", "convnet", "--judge", str(tmp_path / "judge"), *SHORT]
        assert train_perception.main(["gan", *gan, "--num-threads", "1", "--out", str(tmp_path / name)]) == 0
        result = json.loads((tmp_path / name / "test.json").read_text())["test"]
        return result["modes"], result["sure"]

    rng = np.random.default_rng(0)

    def real(_: GANHead, latents: torch.Tensor) -> torch.Tensor:
        at = rng.integers(len(digits.targets), size=len(latents))
        return torch.from_numpy(digits.images(at)).float() / 255

    with monkeypatch.context() as patch:
        patch.setattr(GAN, "latents", lambda task, count, seed=None: torch.ones(count, task.latent_size))  # noqa: ARG005
        assert modes("constant")[0] <= 1
    monkeypatch.setattr(GANHead, "draw", real)
    assert modes("real") == (10, pytest.approx(0.95, abs=0.05))


def test_wrong_input_gets_a_line(trained: dict[str, Path], recorded: Path, tmp_path: Path) -> None:
    train = ("runs.train_perception", "segmentation", "--out", str(tmp_path / "out"), "--data")
    assert "is no folder" in refused(*train, "digits")
    assert "neither a checkpoint" in refused(*train, str(recorded), "--backbone", "natrue")
    assert "has no seaquest" in refused(*train, str(recorded), "--game", "seaquest")
    assert "images/" in refused(*train, str(tmp_path))
    assert "takes a recording" in refused(train[0], "contrast", *train[2:], "digits")
    assert "--game goes with a recording" in refused(*train, str(tmp_path), "--game", "pong")
    assert "does not tell" in refused(
        "runs.evaluate", str(trained["variables"]), "--data", str(recorded), "--game", "qbert"
    )
    assert "--game GAME" in refused("runs.predict", str(trained["variables"]))
    assert "--out" in refused("runs.predict", str(trained["gan"]))
    gan = ("runs.train_perception", "gan", "--out", str(tmp_path / "out"), "--data", "digits", "--judge")
    assert "does not tell of what class" in refused(*gan, str(trained["variables"]))
    assert "(1, 36, 36), these are (1, 32, 32)" in refused(*gan, str(trained["digits"]), "--backbone", "convnet")
    assert "an agent's checkpoint" in refused("runs.predict", str(trained["dqn"]), "--game", "pong")
    assert "a perception task's" in refused("runs.watch", str(trained["variables"]), "--video", str(tmp_path / "a.mp4"))
    assert "exclude each other" in refused(*train, str(recorded), "--freeze", "--finetune")


def test_a_loss_that_is_no_number_stops_and_spoils_no_checkpoint(tmp_path: Path) -> None:
    options = [*SHORT, "--data", "digits", "--learning-rate", "1e30", "--out", str(tmp_path / "run")]
    options[options.index("5")] = "100"  # not looked at before the end
    printed = run("runs.train_perception", "classification", *options, expect=3)
    assert "warning: no checkpoint" in printed and "--learning-rate" in printed
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_own_pictures_in_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, grey in (("dark", 40), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            pixels = (grey + rng.integers(-30, 30, (24, 30, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    data = open_dataset("classification", str(tmp_path / "data"), None, 32)
    assert data.names == {"class": ["dark", "light"]} and (data.channels, data.size) == (3, (32, 32))
    assert {split: len(at) for split, at in data.splits.items()} == {"train": 28, "validation": 4, "test": 8}
    for split in data.splits.values():
        assert set(data.targets[split, 0].tolist()) == {0, 1}
    Image.new("RGB", (9, 9)).save(tmp_path / "data" / "loose.png")
    whole = open_dataset("autoencoding", str(tmp_path / "data"), None, 32)
    for split, at in data.splits.items():  # who learns without labels is tested on the same pictures
        mine = {image.tobytes() for image in data.images(at)}
        assert mine <= {image.tobytes() for image in whole.images(whole.splits[split])}
    dark = data.images(np.flatnonzero(data.targets[:, 0] == 0))
    assert dark.max() < 100
    shutil.copytree(tmp_path / "data" / "dark", tmp_path / "split" / "train")
    shutil.copytree(tmp_path / "data" / "light", tmp_path / "split" / "test" / "below")
    made = open_dataset("autoencoding", str(tmp_path / "split"), None, 32)
    assert {split: len(at) for split, at in made.splits.items()} == {"train": 18, "validation": 2, "test": 20}
    assert made.images(made.splits["test"]).mean() > 150 > 100 > made.images(made.splits["validation"]).mean()
    (tmp_path / "split" / "test").rename(tmp_path / "split" / "val")  # then that is tested on
    named = open_dataset("autoencoding", str(tmp_path / "split"), None, 32)
    for split in made.splits:
        assert np.array_equal(named.images(named.splits[split]), made.images(made.splits[split]))
    (tmp_path / "data" / "dark" / "3.png").write_bytes(b"none")
    with pytest.raises(DatasetError, match="cannot be read as a picture"):
        open_dataset("classification", str(tmp_path / "data"), None, 32)


def test_pictures_of_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 32, dtype=np.uint16)[None].repeat(32, 0)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    assert np.array_equal(read_picture(tmp_path / "deep.png", 32, grey=True)[0], shades >> 8)
    Image.fromarray(shades.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DatasetError, match="32 bits a pixel"):
        read_picture(tmp_path / "float.tiff", 32)


def test_a_run_goes_on_from_elsewhere_and_with_the_same_pictures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    options = ["classification", *SHORT, "--num-threads", "1", "--data", "data", "--backbone", "lenet"]
    assert train_perception.main([*options, "--out", "run"]) == 0
    monkeypatch.chdir(ROOT)
    run("runs.train_perception", "--resume", str(tmp_path / "run"), "--total-updates", "14")
    shutil.copy(tmp_path / "data" / "a" / "3.png", tmp_path / "data" / "a" / "more.png")
    for command in (["runs.train_perception", "--resume", "--total-updates", "16"], ["runs.evaluate"]):
        again = refused(*command[:2], str(tmp_path / "run"), *command[2:])
        assert "is not what it was when the run began" in again
    shutil.copytree(tmp_path / "data" / "b", tmp_path / "data" / "c")
    again = refused("runs.train_perception", "--resume", str(tmp_path / "run"), "--total-updates", "16")
    assert "is not what it was when the run began" in again


def test_a_public_data_sets_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by Hugging Face's library, as a set would be that it fetched by name."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray((rng.integers(0, 100, (12, 10)) + 150 * (i % 2)).astype(np.uint8)) for i in range(40)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    made = datasets.Dataset.from_dict({"image": pictures, "label": [i % 2 for i in range(40)]}, features=features)
    made.to_parquet(tmp_path / "shades.parquet")
    data = open_dataset("classification", str(tmp_path / "shades.parquet"), None, 32)
    assert data.names == {"class": ["dark", "light"]} and (data.channels, data.size) == (1, (32, 32))
    assert {name: len(at) for name, at in data.splits.items()} == {"train": 28, "validation": 4, "test": 8}
    for at in data.splits.values():
        for image, target in zip(data.images(at), data.targets[at], strict=True):
            assert (image.mean() > 128) == bool(target[0])
    made.remove_columns("label").to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(DatasetError, match="no pictures with labels; its columns are image"):
        open_dataset("classification", str(tmp_path / "bare.parquet"), None, 32)
    made.rename_column("label", "class").to_parquet(tmp_path / "class.parquet")
    assert len(open_dataset("autoencoding", str(tmp_path / "class.parquet"), None, 32).targets) == 40
    bare = open_dataset("autoencoding", str(tmp_path / "bare.parquet"), None, 32)
    assert np.array_equal(bare.targets[np.arange(40)], bare.images(np.arange(40)))
    made.remove_columns("label").add_column("label", [-1] * 40).to_parquet(tmp_path / "unknown.parquet")
    part = open_dataset("autoencoding", str(tmp_path / "shades.parquet"), None, 32)
    assert all(np.array_equal(part.splits[split], at) for split, at in data.splits.items())
    assert len(open_dataset("autoencoding", str(tmp_path / "unknown.parquet"), None, 32).targets) == 40
    known, unknown = (
        datasets.load_dataset("parquet", data_files=str(tmp_path / f"{name}.parquet"))["train"]
        for name in ("shades", "unknown")
    )
    whole = {"train": known, "val": known, "test": unknown}
    monkeypatch.setattr(datasets, "load_dataset", lambda _: whole)
    published = open_dataset("classification", "somebody/shades", None, 32)
    assert {name: len(at) for name, at in published.splits.items()} == {"train": 36, "validation": 4, "test": 40}
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="cannot be loaded"):
        open_dataset("classification", str(tmp_path / "broken.parquet"), None, 32)


def test_own_masks(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(10):
        Image.fromarray(np.full((20, 20, 3), 10 * i, np.uint8)).save(tmp_path / "images" / f"{i}.jpg")
        Image.fromarray(np.full((20, 20), i % 3, np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    data = open_dataset("segmentation", str(tmp_path), None, 40)
    assert data.targets.shape == (10, 40, 40) and data.names == {"classes": ["class 0", "class 1", "class 2"]}
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [7, 1, 2]
    (tmp_path / "classes.json").write_text(json.dumps(["sky", "sea", "sand"]))
    assert open_dataset("segmentation", str(tmp_path), None, 40).names == {"classes": ["sky", "sea", "sand"]}
    for i in range(10):  # VOC's way: a border that nobody labelled
        mask = np.full((20, 20), i % 3, np.uint8)
        mask[:10] = VOID
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    voc = open_dataset("segmentation", str(tmp_path), None, 40)
    assert voc.names == {"classes": ["sky", "sea", "sand"]} and sum(voc.pixels()) == 7 * 40 * 20
    for i in range(10):
        Image.fromarray(np.full((20, 20), 255 * (i % 2), np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    assert set(np.unique(open_dataset("segmentation", str(tmp_path), None, 40).targets)) == {0, 1}
    for unclear in ({"0": "sky", "1": "sea"}, None, [1, 2]):
        (tmp_path / "classes.json").write_text(json.dumps(unclear))
        with pytest.raises(DatasetError, match="cannot be read as a list of names"):
            open_dataset("segmentation", str(tmp_path), None, 40)
    (tmp_path / "classes.json").unlink()
    (tmp_path / "masks" / "4.png").rename(tmp_path / "masks" / "4.jpg")
    with pytest.raises(DatasetError, match="is a JPEG, which changes class numbers"):
        open_dataset("segmentation", str(tmp_path), None, 40)
    (tmp_path / "masks" / "4.jpg").rename(tmp_path / "masks" / "4.png")
    (tmp_path / "masks" / "4.png").unlink()
    with pytest.raises(DatasetError, match="has no mask"):
        open_dataset("segmentation", str(tmp_path), None, 40)


def test_options_that_do_not_suit_the_data_are_refused(recorded: Path, tmp_path: Path) -> None:
    options = ["--tracking", "none", "--out", str(tmp_path / "run")]
    moved = ["classification", "--data", str(recorded), "--augmentation", "affine"]
    assert "moves the picture" in refused("runs.train_perception", *moved, *options)
    spread = ["classification", "--data", "digits", "--label-spread", "3"]
    assert "is an option of a game's variables" in refused("runs.train_perception", *spread, *options)
    dropped = ["segmentation", "--data", str(recorded), "--dropout", "0.5"]
    assert "dropout is an option of" in refused("runs.train_perception", *dropped, *options)


def test_best_weights_that_could_not_be_kept_are_kept_later(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the first evaluation costs no more than that one's weights."""
    real, calls = CheckpointWriter.keep, []

    def full_at_first(self: CheckpointWriter, name: str, write: Callable[[Path], None]) -> bool:
        calls.append(name)
        return len(calls) > 1 and real(self, name, write)

    monkeypatch.setattr(CheckpointWriter, "keep", full_at_first)

    def measured(_n: Any, _t: Any, data: Dataset, split: str, _c: Any) -> tuple[torch.Tensor, dict[str, float]]:
        return torch.zeros(len(data.splits[split]), 84, 84, dtype=torch.uint8), {"loss": 1.0, "miou": 0.5}

    monkeypatch.setattr("runs.perception_run.measure_split", measured)
    short = PerceptionConfig("segmentation", str(recorded), total_updates=2, evaluate_every_updates=1)
    whole = new_run(replace(short, tracked=TrackingConfig(tracking="none"), out=tmp_path / "run"))
    with whole.display:
        assert train_perception.finish(whole, train_perception.train(whole)) == "done"
    assert calls == ["best", "best"] and (tmp_path / "run" / "best" / "config.json").exists()


def test_variables_of_a_recording(recorded: Path) -> None:
    data = open_dataset("classification", str(recorded), "breakout", 0)
    assert "ball_x" in data.names and all(len(values) > 1 for values in data.names.values())
    assert data.targets.shape == (1600, len(data.names))
    for split in ("train", "validation", "test"):
        assert len(data.splits[split])
    train = data.targets[data.splits["train"]]
    assert train.min() == 0 and data.targets.min() >= UNSEEN
    for column, values in zip(train.T, data.names.values(), strict=True):
        assert set(column.tolist()) == set(range(len(values)))
    # Renumbered for a network that knows the values in another order, and one of them not.
    other = {"ball_x": [*reversed(data.names["ball_x"][1:]), "999"]}
    again = data.numbered_as(other)
    ball = list(data.names).index("ball_x")
    for before, after in zip(data.targets[:, ball], again.targets[:, 0], strict=True):
        value = "unseen" if before == UNSEEN else data.names["ball_x"][before]
        assert other["ball_x"][after] == value if after != UNSEEN else value in ("unseen", data.names["ball_x"][0])


def test_captions_of_own_pictures(tmp_path: Path) -> None:
    """COCO's JSON and lines of JSON tell the same; a picture's captions stay in one split."""
    for i in range(10):
        Image.fromarray(np.full((20, 20, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    captions = [(f"{i}.png", f"a grey of {word} {i}") for i in range(10) for word in ("about", "nearly")]
    lines = [json.dumps({"file": file, "text": text}) for file, text in captions]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    data = open_dataset("captioning", str(tmp_path), None, 40)
    assert {name: len(at) for name, at in data.splits.items()} == {"train": 14, "validation": 1, "test": 2}
    assert data.truth("test").shape[:2] == (2, 2) and data.truth("train").shape[0] == 14
    for at in data.splits.values():
        for image, target in zip(data.images(at), data.targets[at], strict=True):
            said = decode(target, data.names["words"]).split()
            assert said[:3] == ["a", "grey", "of"] and said[-1] in (str(image[0, 0, 0] // 20), "<unknown>")
    coco = {
        "images": [{"id": 7 + i, "file_name": f"{i}.png"} for i in range(10)],
        "annotations": [{"image_id": 7 + int(file[0]), "caption": text} for file, text in captions],
    }
    (tmp_path / "captions.json").write_text(json.dumps(coco))
    again = open_dataset("captioning", str(tmp_path), None, 40)
    assert np.array_equal(data.targets[:], again.targets[:]) and data.names == again.names  # type: ignore[index]
    (tmp_path / "captions.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match="annotations"):
        open_dataset("captioning", str(tmp_path), None, 40)


def test_what_comes_a_step_later_is_of_the_same_episode(recorded: Path) -> None:
    data = open_dataset("contrast", str(recorded), "breakout", 0)
    assert sum(map(len, data.splits.values())) < 1600 - 5
    for at in data.splits.values():
        np.testing.assert_array_equal(data.images(at)[:, 1:], data.targets[at][:, :-1])
