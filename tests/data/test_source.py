"""Folders of pictures, and which example stands where."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.config import build
from tuner.data.buckets import placement
from tuner.data.folder import read_folder
from tuner.data.pictures import BadPicture, fitted, read
from tuner.data.source import Source, encoded, imagined, pictures, with_latents, with_prompts
from tuner.errors import RequestError, RunError
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.recipe import TrainConfig


@pytest.fixture(scope="module")
def model(tiny_base):
    return LatentDiffusion.load(tiny_base)


def config(images, **options):
    return build(TrainConfig, {"images": str(images), "batch_size": 2, **options})


def test_sidecars_metadata_and_neither(images, tmp_path):
    beside = read_folder(Path(images)).examples
    assert beside[0].caption == "a teddy bear on a blue background"
    listed = tmp_path / "listed"
    listed.mkdir()
    lines = []
    for example in beside:
        (listed / example.file.path.name).write_bytes(example.file.path.read_bytes())
        lines.append(json.dumps({"file_name": example.file.path.name, "text": example.caption}))
    bare = read_folder(listed).examples
    assert [e.caption for e in bare] == [""] * 4
    (listed / "metadata.jsonl").write_text("\n".join(lines))
    again = read_folder(listed).examples
    assert [(e.file.path.name, e.caption) for e in again] == [(e.file.path.name, e.caption) for e in beside]


def test_caption_and_trigger(images, model):
    for file in Path(images).glob("*.txt"):
        file.unlink()
    source = pictures(config(images, caption="a bear", trigger="sks"), model)
    assert set(source.captions) == {"sks a bear"}


@pytest.mark.parametrize(
    "line", ['{"text": "no name"}', "not json", '{"file_name": "../secret.png"}', '{"file_name": "/etc/x.png"}']
)
def test_metadata_that_cannot_be_used(tmp_path, line, model):
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(RequestError, match="line 1"):
        pictures(config(tmp_path), model)


def test_a_caption_that_is_not_utf8_is_named_with_its_byte(images, model):
    (Path(images) / "red.txt").write_bytes(b"a caf\xe9")
    with pytest.raises(RequestError, match=r"red\.txt .*byte 5"):
        pictures(config(images), model)


def test_bad_pictures_are_named_and_left_out(images, model):
    folder = Path(images)
    whole = (folder / "red.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    source = encoded(config(images), model)
    assert len(source) == 4
    assert sorted(next(n for n in ("torn", "empty", "text") if n in s) for s in source.skipped) == [
        "empty",
        "text",
        "torn",
    ]
    (folder / "fourth.png").write_bytes(b"")
    with pytest.raises(RunError, match="4 of 8"):
        encoded(config(images), model)


def test_no_readable_picture(tmp_path, model):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(RequestError, match=r"a\.png"):
        pictures(config(tmp_path), model)


def test_the_door_turns_flattens_and_rescales(tmp_path):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert read(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((8, 8), 32768, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert read(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read(tmp_path / "turned.jpg").size == (4, 8)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red, green, blue = read(tmp_path / "cmyk.jpg").getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60
    with pytest.raises(BadPicture, match=r"no\.png"):
        read(tmp_path / "no.png")


def test_the_square_is_the_middle():
    wide = Image.new("RGB", (64, 32), (255, 0, 0))
    wide.paste((0, 255, 0), (16, 0, 48, 32))
    array = fitted(wide, placement(wide.size, 16, 4, squares=True))
    assert array.shape == (3, 16, 16)
    assert (array[1] > 235).all()


def test_positions_decide_and_batches_do_not():
    source = Source(5, 8, [str(i) for i in range(11)])
    whole = source.batch(3, range(8))
    parts = [source.batch(3, range(i, i + 2)) for i in range(0, 8, 2)]
    assert whole.captions == sum((p.captions for p in parts), ())
    noise = torch.cat([p.draw.normal("noise", 3) for p in parts])
    assert torch.equal(whole.draw.normal("noise", 3), noise)
    assert not torch.equal(whole.draw.normal("other", 3), noise)


def test_an_epoch_visits_every_example_once():
    source = Source(5, 4, [str(i) for i in range(10)])
    seen = [c for step in range(5) for c in source.batch(step, range(4)).captions]
    assert sorted(seen[:10]) == sorted(source.captions) == sorted(seen[10:])
    assert seen[:10] != seen[10:]


def test_a_prior_is_visited_as_often_as_the_pictures(images, model):
    own = encoded(config(images), model)
    prior = imagined(own, model, ["a cat", "a dog", "a photo", "a picture", "a cat", "a dog", "a photo"], 2)
    assert len(prior) == 14 and prior.captions[:3] == ["a cat", "a cat", "a dog"]
    assert not torch.equal(prior.pixels[0], prior.pixels[1])
    both = own.with_prior(with_prompts(with_latents(prior, model), model))
    seen = [caption for step in range(15) for caption in both.batch(step, range(2)).captions]
    mine = [caption for caption in seen if caption.startswith("a teddy bear")]
    assert (len(mine), len(seen)) == (16, 30)  # the four pictures four times, the fourteen once
    batch = both.batch(0, range(30))
    encoded_anew = model.encode_prompts(batch.captions).hidden
    assert torch.allclose(batch.conditioning.hidden, encoded_anew, atol=1e-5)


def test_caption_dropout_gives_the_empty_prompt(images, model):
    source = encoded(config(images, caption_dropout=0.5), model)
    batch = source.batch(0, range(40))
    empty = model.encode_prompts([""]).hidden[0]
    dropped = [torch.allclose(row, empty, atol=1e-5) for row in batch.conditioning.hidden]
    assert 8 < sum(dropped) < 32
    assert dropped == [caption == "" for caption in batch.captions]


def test_encoded_equals_encoding_anew(images, model, tmp_path):
    """In a cache of its own: what a job kept was encoded with weights laid out for speed, which rounds otherwise."""
    source = encoded(config(images, cache=str(tmp_path / "cache")), model)
    batch = source.batch(0, range(4))
    raw = pictures(config(images), model).batch(0, range(4))
    assert raw.captions == batch.captions
    with torch.no_grad():
        assert torch.allclose(model.encode_images(raw.pixels), batch.moments, atol=1e-5)
        assert torch.allclose(model.encode_prompts(raw.captions).hidden, batch.conditioning.hidden, atol=1e-5)


def test_training_warns_of_captions_that_are_cut_and_of_no_others(tuner, tiny_base, images, tmp_path):
    call = ("lora", "--base", tiny_base, "--images", images, "--dry-run")
    assert "longer than" not in tuner(*call).stdout
    first = sorted(Path(images).glob("*.txt"))[0]
    first.write_text("a teddy bear " * 20)
    assert "1 caption is longer than the 16 tokens" in " ".join(tuner(*call).stdout.split())
