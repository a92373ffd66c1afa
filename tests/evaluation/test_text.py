"""CLIP scores of a CLIP made by hand, whose answers are known; likeness to a subject."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.errors import RequestError
from tuner.evaluation.features import collect, network
from tuner.evaluation.statistics import mean, share
from tuner.evaluation.text import ClipText, likeness

AXES = {"red": (1.0, -1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0, -1.0), "green": (-1.0, 1.0, 0.0, 0.0)}
RED, BLUE, PURPLE, BLACK = (Image.new("RGB", (40, 40), c) for c in ("#ff0000", "#0000ff", "#ff00ff", "#000000"))
HALF = 100 / 2**0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP in which both towers take the mean of what they see.

    A picture points along one axis for its red and another for its blue; a text likewise for its words, and "green"
    points away from "red". Every direction sums to zero, so layer norms only scale it.
    """
    from transformers import CLIPConfig, CLIPModel

    from tuner.models.tokens import tokenizer

    tokens = tokenizer(AXES, 8)
    end = tokens.eos_token_id
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = sizes | {"vocab_size": len(tokens), "max_position_embeddings": 8, "eos_token_id": end, "bos_token_id": end}
    vision = sizes | {"image_size": 32, "patch_size": 32}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=2))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm, through = (
                "norm" in name and name.endswith("weight"),
                name.endswith(("v_proj.weight", "out_proj.weight")),
            )
            weight.copy_(torch.eye(4) if through else torch.full_like(weight, float(norm)))
        for word, axis in AXES.items():
            model.text_model.embeddings.token_embedding.weight[tokens(word)["input_ids"][1]] = torch.tensor(axis)
        seen = model.vision_model.embeddings.patch_embedding.weight  # (4, 3, 32, 32)
        seen[:, 0] = torch.tensor(AXES["red"])[:, None, None] / 1024
        seen[:, 2] = torch.tensor(AXES["blue"])[:, None, None] / 1024
        for projection in (model.text_projection, model.visual_projection):
            projection.weight.copy_(torch.tensor([AXES["red"], AXES["blue"]]))
    made = tmp_path_factory.mktemp("clip") / "by-hand"
    model.save_pretrained(made)
    tokens.save_pretrained(made)
    about = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "do_center_crop": False}
    about |= {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (made / "preprocessor_config.json").write_text(json.dumps(about))
    return made


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipText:
    return ClipText.load(str(folder))


def test_scores_are_those_that_it_was_made_for(clip: ClipText) -> None:
    asked = [
        (RED, "red", 100), (RED, "blue", 0), (RED, "green", 0), (BLUE, "blue", 100), (PURPLE, "red", HALF),
        (PURPLE, "red blue", 100), (RED, "red blue", HALF), (PURPLE, "green", 0),
    ]  # fmt: skip
    pictures, texts, wanted = zip(*asked, strict=True)
    np.testing.assert_allclose(clip.scores(pictures, texts), wanted, atol=0.01)
    np.testing.assert_allclose(clip.scores(pictures, texts, batch_size=3), wanted, atol=0.01)
    assert clip.cosines([RED], ["green"])[0] == pytest.approx(-1, abs=1e-4)


def test_scores_equal_the_models_own_logits(clip: ClipText) -> None:
    texts = ["red", "red red blue", "blue red green green"]
    inputs = clip.tokenizer(texts, padding=True, return_tensors="pt")
    prepared = clip.processor(images=[PURPLE], return_tensors="pt")
    with torch.no_grad():
        logits = clip.model(**inputs, **prepared).logits_per_image[0] / clip.model.logit_scale.exp()
    np.testing.assert_allclose(clip.cosines([PURPLE] * 3, texts), logits.numpy(), atol=1e-5)


def test_a_longer_share_of_the_word_scores_higher(clip: ClipText) -> None:
    scores = clip.scores([RED] * 4, ["blue", "red blue blue", "red blue", "red red blue"])
    assert all(a < b for a, b in pairwise(scores))


def test_accuracy_counts_where_the_target_beats_the_anchor(clip: ClipText) -> None:
    won = clip.prefers([RED, BLUE, PURPLE, RED], ["red", "red", "red", "green"], ["blue", "blue", "red", "blue"])
    assert won.tolist() == [True, False, False, False]  # the third is a tie
    figure = share(won, "CLIP accuracy")
    assert (figure.value, figure.n) == (0.25, 4)


def test_long_texts_are_cut_at_the_models_length(clip: ClipText) -> None:
    cut = clip.cosines([PURPLE] * 2, ["red " * 6 + "blue " * 10, "red " * 6])
    assert cut[0] == pytest.approx(cut[1], abs=1e-5)


def test_the_score_becomes_a_figure_over_prompts(clip: ClipText) -> None:
    texts = ["red"] * 3 + ["blue"] * 3
    figure = mean(clip.scores([RED, PURPLE, RED, BLUE, BLUE, PURPLE], texts), "CLIP score", groups=texts)
    assert figure.value == pytest.approx((4 * 100 + 2 * HALF) / 6, abs=0.01) and (figure.n, figure.groups) == (6, 2)


def test_likeness_is_the_mean_cosine_with_all_references(folder: Path) -> None:
    net = network(str(folder))
    found = likeness(collect(net, [RED, BLUE, PURPLE]), collect(net, [RED, RED, BLUE]))
    np.testing.assert_allclose(found, [2 / 3, 1 / 3, HALF / 100], atol=1e-4)
    ours, theirs = np.random.default_rng(1).normal(size=(6, 5)), np.random.default_rng(2).normal(size=(4, 5))
    wanted = [np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in theirs]) for a in ours]
    np.testing.assert_allclose(likeness(ours, theirs), wanted)


def test_bad_input_is_refused_in_a_sentence(clip: ClipText, tmp_path: Path) -> None:
    requests = [
        (lambda: clip.scores([], []), "do not match"),
        (lambda: clip.scores([RED], ["red", "blue"]), "1 pictures and 2 texts"),
        (lambda: clip.prefers([RED], ["red"], []), "1 pictures and 0 texts"),
        (lambda: clip.scores([BLACK], ["red"]), "no direction"),
        (lambda: likeness(np.ones((2, 3)), np.ones((2, 4))), "one network"),
        (lambda: likeness(np.ones((0, 3)), np.ones((2, 3))), "too small"),
        (lambda: likeness(np.full((1, 3), np.nan), np.ones((2, 3))), "not finite"),
        (lambda: ClipText.load(str(tmp_path / "nowhere")), "no such folder"),
        (lambda: ClipText.load(str(tmp_path)), "could not be loaded"),
    ]
    for request, words in requests:
        with pytest.raises(RequestError, match=words) as caught:
            request()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_only_a_clip_with_its_tokenizer_will_do(folder: Path, tmp_path: Path) -> None:
    from shutil import copytree

    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32, "patch_size": 8}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    with pytest.raises(RequestError, match="of the kind dinov2"):
        ClipText.load(str(tmp_path / "dino"))
    speechless = copytree(folder, tmp_path / "speechless")
    for file in speechless.glob("*token*"):
        file.unlink()
    with pytest.raises(RequestError, match=r"tokenizer of .* is missing"):
        ClipText.load(str(speechless))
