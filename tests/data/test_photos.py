"""Real photographs, scikit-image's own, give the same examples in every layout, and train in each."""

import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import pytest
import skimage
import torch
from PIL import Image

from tuner.config import build
from tuner.data.source import encoded
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.recipe import TrainConfig

PHOTOS = {
    "astronaut.png": "a portrait of an astronaut",
    "chelsea.png": "a cat with green eyes, close up",
    "coffee.png": "a cup of coffee on a wooden table",
    "hubble_deep_field.jpg": "galaxies",
    "rocket.jpg": "a rocket on its launch pad",
    "retina.jpg": "an eye's retina",
}
ALL = "a photograph"


def shipped(name: str) -> Path:
    """A picture in scikit-image's wheel; nothing is downloaded."""
    return Path(skimage.__file__).parent / "data" / name


def put(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shipped(name), folder / name)


def beside(folder: Path, suffix: str) -> Path:
    for name, caption in PHOTOS.items():
        put(folder, name)
        (folder / name).with_suffix(suffix).write_text(caption + "\n")
    return folder


def listed(folder: Path, kind: str, inside: str = ".") -> Path:
    rows = [{"file_name": f"{name}", "text": caption} for name, caption in PHOTOS.items()]
    for name in PHOTOS:
        put(folder / inside, name)
    table, file = datasets.Dataset.from_list(rows), str(folder / inside / f"metadata.{kind}")
    {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[kind](file)
    return folder


def kohya(folder: Path) -> Path:
    """A folder a caption, so that their names are the captions."""
    for name, caption in PHOTOS.items():
        put(folder / f"1_{caption}", name)
    return folder


def nested(folder: Path) -> Path:
    for number, (name, caption) in enumerate(PHOTOS.items()):
        inner = folder / f"part {number % 2}" / "deeper"
        put(inner, name)
        (inner / name).with_suffix(".txt").write_text(caption)
    return folder


def saved(folder: Path) -> Path:
    rows = {"image": [str(shipped(name)) for name in PHOTOS], "text": list(PHOTOS.values())}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return folder


LAYOUTS = {
    "txt": lambda folder: beside(folder, ".txt"),
    "caption": lambda folder: beside(folder, ".caption"),
    "jsonl": lambda folder: listed(folder, "jsonl"),
    "csv": lambda folder: listed(folder, "csv"),
    "parquet": lambda folder: listed(folder, "parquet"),
    "train": lambda folder: listed(folder, "jsonl", "train"),
    "kohya": kohya,
    "nested": nested,
    "saved": saved,
}


@pytest.fixture(scope="module")
def bundled() -> LatentDiffusion:
    return LatentDiffusion.load("emoji")


@pytest.fixture(scope="module")
def plain(bundled, tmp_path_factory) -> dict:
    """What the flat folder with .txt files gives."""
    return examples(beside(tmp_path_factory.mktemp("plain"), ".txt"), bundled)


def examples(folder: Path, model: LatentDiffusion) -> dict:
    """Caption -> moments, sizes and conditioning."""
    source = encoded(build(TrainConfig, {"images": str(folder), "cache": "none"}), model)
    assert source.skipped == () and len(source) == len(PHOTOS)
    told = source.conditioning.hidden[source.rows]
    return {c: (source.moments[i], source.sizes[i], told[i]) for i, c in enumerate(source.captions)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_examples_in_every_layout(layout, bundled, plain, tmp_path):
    found = examples(LAYOUTS[layout](tmp_path / "it"), bundled)
    assert found.keys() == plain.keys() == set(PHOTOS.values())
    for caption, (moments, sizes, told) in found.items():
        assert torch.equal(sizes, plain[caption][1])
        assert torch.allclose(moments, plain[caption][0], atol=1e-4)  # other pictures stood beside it in its batch
        assert torch.allclose(told, plain[caption][2], atol=1e-5)


def test_the_shapes_are_those_of_the_photographs(bundled, plain):
    assert Counter(tuple(sizes[4:].tolist()) for _, sizes, _ in plain.values()) == {(64, 64): 3, (48, 80): 3}
    for name, caption in PHOTOS.items():
        moments, sizes, _ = plain[caption]
        with Image.open(shipped(name)) as picture:
            assert picture.size == (sizes[1], sizes[0])
        assert moments.shape == (2 * bundled.vae.config.latent_channels, sizes[4] // 4, sizes[5] // 4)


def test_what_the_autoencoder_gives_back_is_the_photograph(bundled, plain):
    """The whole way from the file to the latents and back, the right way up."""
    moments, *_ = plain[PHOTOS["rocket.jpg"]]
    with torch.no_grad():
        mean = moments.chunk(2)[0] * bundled.vae.config.scaling_factor
        again = bundled.decode(mean[None])[0]
    with Image.open(shipped("rocket.jpg")) as picture:
        small = picture.convert("RGB").resize((80, 53)).crop((0, 2, 80, 50))
    wanted = torch.tensor(list(small.get_flattened_data())).view(48, 80, 3).permute(2, 0, 1) / 127.5 - 1
    assert (again - wanted).abs().mean() < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_steps_on_each_layout(layout, tuner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = LAYOUTS[layout](tmp_path / "it")
    words = ["--steps", 2, "--batch-size", 2, "--config", tmp_path / "it.toml", "--name", "it", "--learning-rate", 0.1]
    (tmp_path / "it.toml").write_text("class_prompt = []\n")
    result = tuner("lora", "--images", folder, *words)
    assert result.exit_code == 0, result.output
    assert "6 pictures" in result.output
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "runs" / "it" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)


@pytest.mark.slow
def test_a_folder_without_captions_trains_with_one_for_all(tuner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in PHOTOS:
        put(tmp_path / "bare", name)
    (tmp_path / "it.toml").write_text("class_prompt = []\n")
    words = ["--caption", ALL, "--steps", 2, "--dry-run", "--config", "it.toml"]
    result = tuner("lora", "--images", "bare", *words)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "runs").exists()
