"""Feature networks: the judge sees what is wrong with scenes; towers load from folders, without torchvision."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tuner.bundled import emoji, world
from tuner.errors import RequestError
from tuner.evaluation.coverage import precision_recall
from tuner.evaluation.distances import frechet, inception_score, kid
from tuner.evaluation.features import JudgeFeatures, JudgeLooks, collect, images, network, tensor
from tuner.evaluation.judge import Judge, pixels

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = SIZES | {"image_size": 32, "patch_size": 8}


def scenes(seed: int, count: int, subjects: tuple[str, ...]) -> list[Image.Image]:
    return [world.draw(it) for it in world.scenes(seed, count, subjects)]


def created(kind: str, folder: Path) -> Path:
    """A tiny tower with random weights, saved as the Hub has them."""
    import transformers as t

    makers: dict[str, Callable[[], Any]] = {
        "vit": lambda: t.ViTModel(t.ViTConfig(**VISION), add_pooling_layer=False),  # as facebook/dino-vits16
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**VISION)),
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=SIZES, vision_config=VISION, projection_dim=8)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=SIZES, vision_config=VISION)),
        "convnext": lambda: t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1] * 4)),
        "classes": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
        ),
        "bert": lambda: t.BertModel(t.BertConfig(vocab_size=20, **SIZES)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        makers[kind]().save_pretrained(folder)
    about = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "resample": 3,
        "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def judge() -> JudgeFeatures:
    return JudgeFeatures(Judge.load())


def test_the_judge_tells_a_second_half_from_other_scenes(judge: JudgeFeatures) -> None:
    count, looks = 180, JudgeLooks(judge.judge)
    first, half = scenes(9301, count, emoji.KNOWN), scenes(9302, count, emoji.KNOWN)
    sets = {
        "half": half,
        "blurred": [picture.filter(ImageFilter.GaussianBlur(2)) for picture in half],
        "cats": scenes(9302, count, emoji.CATS),
        "red": [world.draw(replace(it, background="red")) for it in world.scenes(9302, count, emoji.KNOWN)],
        "plain": [world.draw(it) for it in world.scenes(9302, count, emoji.KNOWN, styles=("plain",))],
    }
    real, seen = collect(looks, first), {name: collect(looks, pictures) for name, pictures in sets.items()}
    fd = {name: frechet(it, real, looks.name) for name, it in seen.items()}
    distance = {name: kid(it, real, looks.name) for name, it in seen.items()}
    assert distance["half"].error is not None and distance["half"].value < 3 * distance["half"].error
    for name in ("blurred", "cats", "red", "plain"):
        sure = 3 * np.hypot(fd[name].error or 1, fd["half"].error or 1)  # both are too high by the same bias
        assert fd[name].value > fd["half"].value + sure
        assert distance[name].value > distance["half"].value + 2 * (distance[name].error or 1)
    precision, recall = (
        {name: precision_recall(it, real, looks.name)[which].value for name, it in seen.items()} for which in (0, 1)
    )
    assert precision["half"] > precision["blurred"] + 0.25
    assert precision["cats"] > 0.7 > 0.4 > recall["cats"]  # every cat is a right picture; cats are not all there is
    score = {
        name: inception_score(collect(judge.probabilities, sets[name]), "judge").value for name in ("half", "cats")
    }
    assert score["half"] > 1.3 * score["cats"]


def test_other_subjects_are_told_by_what_they_are(judge: JudgeFeatures) -> None:
    real, half, others = (
        collect(judge, scenes(seed, 180, names))
        for seed, names in ((9301, emoji.KNOWN), (9302, emoji.KNOWN), (9302, emoji.HELD_OUT))
    )
    near, far = ((it @ real.T).max(axis=1).mean() for it in (half, others))  # the cosine of the nearest
    assert near > far + 0.05, (near, far)
    assert frechet(others, real, judge.name, 0).value > 1.5 * frechet(half, real, judge.name, 0).value


def test_the_judges_features_are_its_own(judge: JudgeFeatures) -> None:
    pictures = scenes(9303, 7, emoji.KNOWN)
    found = collect(judge, pictures, batch_size=3)
    assert (found.shape, found.dtype, judge.name) == ((7, 128), np.float64, "judge")
    np.testing.assert_allclose(found, judge.judge.features(pixels(pictures)).numpy(), atol=1e-5)
    np.testing.assert_allclose(collect(judge.probabilities, pictures).sum(axis=1), 1, atol=1e-5)
    looks = network()
    assert isinstance(looks, JudgeLooks) and looks.name == "judge"
    seen = collect(looks, pictures)
    np.testing.assert_allclose((seen**2).mean(axis=1), 1, rtol=1e-5)  # whatever the width


def test_sizes_may_differ_and_batches_change_nothing(judge: JudgeFeatures) -> None:
    mixed = [p.resize((96, 80)) if i in (2, 3) else p for i, p in enumerate(scenes(9304, 6, emoji.KNOWN))]
    np.testing.assert_allclose(collect(judge, iter(mixed)), collect(judge, mixed, batch_size=1), atol=1e-5)
    with pytest.raises(RequestError, match="64 x 64 and 96 x 80"):
        tensor(mixed)


def test_pictures_and_tensors_are_the_same() -> None:
    pictures = scenes(9305, 2, emoji.KNOWN)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(images(tensor(pictures)), pictures, strict=True))
    for wrong, words in ((torch.zeros(3, 8, 8), "(B, 3, H, W)"), (torch.full((1, 3, 8, 8), -0.5), "between 0 and 1")):
        with pytest.raises(RequestError) as caught:
            images(wrong)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "width"), [("vit", 16), ("dinov2", 16), ("clip", 8), ("siglip", 16), ("convnext", 16)]
)
def test_towers_from_folders(kind: str, width: int, tmp_path: Path) -> None:
    net = network(str(created(kind, tmp_path / f"tiny-{kind}")))
    assert net.name == f"tiny-{kind}"
    pictures = scenes(9306, 5, emoji.KNOWN)
    found = collect(net, pictures, batch_size=2)
    assert found.shape == (5, width) and np.abs(found[0] - found[1]).max() > 1e-4
    np.testing.assert_allclose(found, collect(net, pictures), atol=1e-5)
    with pytest.raises(RequestError, match="knows no classes"):
        collect(net.probabilities, pictures)


def test_a_dino_is_read_by_its_class_token_from_pictures_prepared_as_it_says(tmp_path: Path) -> None:
    from transformers import ViTModel

    folder = created("vit", tmp_path / "dino")
    picture = scenes(9307, 1, emoji.KNOWN)[0]
    found = collect(network(str(folder)), [picture])
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)) / 255
    prepared = torch.from_numpy((small - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        seen = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()(prepared).last_hidden_state
    np.testing.assert_allclose(found, seen[:, 0].numpy(), atol=1e-5)


def test_a_classifier_gives_probabilities_and_features(tmp_path: Path) -> None:
    net = network(str(created("classes", tmp_path / "resnet")))
    pictures = scenes(9308, 3, emoji.KNOWN)
    assert collect(net, pictures).shape == (3, 16)
    table = collect(net.probabilities, pictures)
    assert table.shape == (3, 5)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_torchvision_is_not_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder = created("clip", tmp_path / "clip")
    code = (
        "import sys; sys.modules['torchvision'] = None\nfrom PIL import Image\n"
        "from tuner.evaluation.features import collect, network\n"
        f"print(collect(network({str(folder)!r}), [Image.new('RGB', (50, 40), 'red')]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "(1, 8)" in done.stdout, done.stderr


def broken(kind: str, folder: Path) -> str:
    """A folder that is wrong in one way, or a name that is none."""
    from safetensors.torch import load_file, save_file

    if kind == "name":
        return "no-such-folder"
    created("bert" if kind == "text" else "dinov2", folder)
    weights = folder / "model.safetensors"
    if kind == "pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    if kind == "lacking":
        tensors = load_file(weights)
        del tensors["layernorm.weight"]
        save_file(tensors, weights, {"format": "pt"})
    if kind == "code":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "mine.py").write_text("raise SystemExit(77)")
    if kind == "unprepared":
        (folder / "preprocessor_config.json").unlink()
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("name", "no such folder"), ("text", "of the kind bert"), ("pickle", "safetensors"), ("lacking", "layernorm"),
        ("code", "could not be loaded"), ("unprepared", "preprocessor_config.json"),
    ],
)  # fmt: skip
def test_towers_that_cannot_be_used(kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        network(broken(kind, tmp_path / "tower"))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_no_pictures_and_bad_weights(judge: JudgeFeatures) -> None:
    with pytest.raises(RequestError, match="no pictures"):
        collect(judge, [])
    with pytest.raises(RequestError, match="not finite"):
        collect(lambda pictures: torch.full((len(pictures), 2), torch.nan), [Image.new("RGB", (8, 8))])
