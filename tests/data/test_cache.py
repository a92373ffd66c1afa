"""What was encoded is not encoded again; what has changed is, and nothing else (FAULTS, rows 7, 38, 42)."""

import copy
import multiprocessing
import os
import resource
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tuner.data import fingerprints, rows
from tuner.data.cache import Cache, folder_of, key_of
from tuner.data.sharing import heard
from tuner.data.source import encoded, imagined, pictures, with_latents
from tuner.errors import RunError
from tuner.models.latent_diffusion import LatentDiffusion


@pytest.fixture
def counted(model, monkeypatch):
    """How many pictures and prompts the model encodes from now on."""
    made = Counter()

    def counting(name, inner):
        def call(batch):
            made[name] += len(batch)
            return inner(batch)

        monkeypatch.setattr(model, name, call)

    counting("encode_images", model.encode_images)
    counting("encode_prompts", model.encode_prompts)
    made.told = lambda: (made.pop("encode_images", 0), made.pop("encode_prompts", 0))
    return made


def equal(one, other):
    assert one.captions == other.captions
    assert all(torch.equal(a, b) for a, b in zip(one.moments, other.moments, strict=True))
    assert torch.equal(one.conditioning.hidden[one.rows], other.conditioning.hidden[other.rows])


def test_a_second_run_encodes_nothing_and_an_edit_one(images, picture, options, model, counted):
    first = encoded(options(images), model)
    assert counted.told() == (4, 5)  # four captions and the empty one
    equal(first, encoded(options(images), model))
    assert counted.told() == (0, 0)
    (Path(images) / "red.txt").write_text("another caption")
    encoded(options(images), model)
    assert counted.told() == (0, 1)
    picture(3).save(Path(images) / "blue.png")
    changed = encoded(options(images), model)
    assert counted.told() == (1, 0)
    assert [torch.equal(a, b) for a, b in zip(first.moments, changed.moments, strict=True)].count(False) == 1
    (Path(images) / "green.png").rename(Path(images) / "renamed.png")
    encoded(options(images, caption="a bear", seed=9, batch_size=3), model)
    assert counted.told() == (0, 1)  # the content counts, not the name


def test_other_geometry_or_weights_are_other_entries(images, options, tiny_base, counted, model):
    encoded(options(images), model)
    counted.told()
    encoded(options(images, resolution=40), model)
    assert counted.told() == (4, 0)
    other = LatentDiffusion.load(tiny_base)
    assert fingerprints.weights(other.vae) == fingerprints.weights(model.vae)
    before = encoded(options(images), other)
    with torch.no_grad():
        next(other.vae.encoder.parameters()).mul_(1.01)
    assert not torch.equal(encoded(options(images), other).moments[0], before.moments[0])
    with torch.no_grad():
        next(other.text_encoder.parameters()).add_(0.1)
    assert not torch.equal(encoded(options(images), other).conditioning.hidden, before.conditioning.hidden)


def test_an_adapter_that_changes_nothing_yet_is_no_other_model(tiny_base):
    from peft import LoraConfig, inject_adapter_in_model

    model = LatentDiffusion.load(tiny_base)
    plain = fingerprints.weights(model.unet), fingerprints.drawing(model)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "to_out.0"]), model.unet)
    assert (fingerprints.weights(model.unet), fingerprints.drawing(model)) == plain
    with torch.no_grad():
        next(p for n, p in model.unet.named_parameters() if "lora_B" in n).add_(0.1)
    assert fingerprints.weights(model.unet) != plain[0]


def test_a_tokenizer_is_the_same_before_and_after_use(tiny_base):
    model = LatentDiffusion.load(tiny_base)
    before = fingerprints.prompts(model)
    model.encode_prompts(["a cat"])
    assert fingerprints.prompts(model) == before
    model.tokenizer.add_tokens(["<new>"])
    assert fingerprints.prompts(model) != before


def test_a_thousand_pictures_are_not_decoded_again(tmp_path, picture, options, model, counted, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    plain = picture(1, (32, 32))
    for number in range(1000):
        plain.putpixel((number % 32, number // 32), (255, 0, 0))
        plain.save(folder / f"{number}.bmp")
    first = encoded(options(folder, caption="a thing"), model)
    assert counted.told() == (1000, 2)
    monkeypatch.setattr("tuner.data.audit.decode", None)  # would fail
    again = encoded(options(folder, caption="a thing"), model)
    assert counted.told() == (0, 0)
    assert torch.equal(first.moments.take([0, 999]), again.moments.take([0, 999]))


def test_what_does_not_fit_into_memory_is_read_at_each_visit(images, options, model, counted, monkeypatch):
    first = encoded(options(images), model)
    monkeypatch.setattr(rows, "ROOM", 2 * first.moments[0].nbytes)
    counted.told()
    again = encoded(options(images), model)
    assert len(again.moments._kept) == 2 and counted.told() == (0, 0)
    equal(first, again)
    assert len(again.moments._kept) == 2


@pytest.mark.parametrize("damage", ["empty", "half", "zeros", "a flipped bit", "text"])
def test_a_damaged_entry_is_made_anew(images, options, model, counted, tmp_path, damage):
    first = encoded(options(images), model)
    counted.told()
    for file in (tmp_path / "its cache").rglob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-5] ^= damage == "a flipped bit"
        made = {"empty": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data)), "text": b"hello, I am text"}
        file.write_bytes(made.get(damage, data))
    again = encoded(options(images), model)
    assert counted.told() == (4, 5)
    assert [note for note in again.notes if "damaged" in note] == [again.notes[-1]]
    equal(first, again)
    encoded(options(images), model)
    assert counted.told() == (0, 0)


def test_an_entry_that_vanishes_later_is_made_when_it_is_visited(images, options, model, monkeypatch, tmp_path):
    whole = encoded(options(images), model)
    monkeypatch.setattr(rows, "ROOM", 0)
    source = encoded(options(images), model)
    for file in (tmp_path / "its cache" / "latents").rglob("*.safetensors"):
        file.unlink()
    assert torch.allclose(source.batch(0, range(2)).moments, whole.batch(0, range(2)).moments, atol=1e-5)


def test_no_cache_and_a_dry_run_write_nothing(images, options, model, counted, tmp_path):
    encoded(options(images, cache="none"), model)
    encoded(options(images, dry_run=True), model)
    assert counted.told() == (8, 10) and not (tmp_path / "its cache").exists()
    encoded(options(images), model)
    counted.told()
    encoded(options(images, dry_run=True), model)
    assert counted.told() == (0, 0)  # it may read


def test_a_cache_that_cannot_be_written_is_said_once(images, options, model, tmp_path):
    (tmp_path / "its cache").write_text("a file stands in the way")
    source = encoded(options(images), model)
    assert len(source) == 4 and source.batch(0, range(2)).moments.isfinite().all()
    assert sum("cannot be written" in note for note in source.notes) == 1


def test_no_room_for_an_entry(images, options, model, tmp_path):
    """The kernel cuts every write off at 900 bytes: an entry is torn in the middle, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = options(images)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, hard))  # Python ignores the signal: writes raise EFBIG
    try:
        source = encoded(config, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sum("cannot be written (File too large); going on without it." in note for note in source.notes) == 1
    assert [p for p in (tmp_path / "its cache").rglob("*") if p.is_file()] == []
    equal(source, encoded(options(images, cache="none"), model))


def test_values_that_are_not_finite_are_named_and_not_kept(images, options, tiny_base, tmp_path):
    model = LatentDiffusion.load(tiny_base)
    inner = model.encode_images
    model.encode_images = lambda pixels: torch.where(
        pixels.mean((1, 2, 3), keepdim=True) > 0.5, torch.nan, inner(pixels)
    )
    with pytest.raises(RunError, match=r"not finite for .*white\.png"):
        encoded(options(images), model)
    model.encode_images = inner
    assert all(m.isfinite().all() for m in encoded(options(images), model).moments)


def test_what_the_base_drew_is_drawn_once(images, options, model, monkeypatch, tmp_path):
    from tuner.sampling import drawing

    drawn, seeds = Counter(), []
    inner = drawing.draw

    def count(pipe, shots):
        drawn["pictures"] += len(shots)
        seeds.extend(shot.seed for shot in shots)
        return inner(pipe, [replace(shot, steps=2) for shot in shots])

    monkeypatch.setattr(drawing, "draw", count)
    source = pictures(options(images), model)
    first = imagined(source, model, ["a cat", "a dog"], 2)
    again = imagined(source, model, ["a cat", "a dog"], 2)
    assert drawn.pop("pictures") == 4
    assert all(torch.equal(a, b) for a, b in zip(first.pixels, again.pixels, strict=True))
    told = []
    with heard(lambda *words: told.append(words)):
        imagined(source, model, ["a cat", "a dog", "a bird"], 2)
        imagined(source, model, ["a cat", "a dog", "a bird"], 2)
    assert drawn.pop("pictures") == 2 and told == [(2, 2, "drawing picture")]
    imagined(pictures(options(images, seed=4), model), model, ["a cat"], 1)
    assert drawn.pop("pictures") == 1
    assert len({*seeds}) == 3  # two pictures of each prompt: all prompts begin from the same noises, with this seed
    mixed = with_latents(source, model).with_prior(with_latents(first, model))
    assert mixed.batch(0, range(4)).sizes.shape == (4, 6)
    seeds.clear()
    imagined(source, model, ["a cat", "a dog"], 2, apart=True)
    assert len({*seeds}) == 4 and drawn.pop("pictures") == 4


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", "/of/tuner")
    assert folder_of("") == Path("/of/tuner") and folder_of("/mine") == Path("/mine") and folder_of("none") is None
    monkeypatch.delenv("TUNER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/of/xdg")
    assert folder_of("") == Path("/of/xdg/tuner")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder_of("") == Path.home() / ".cache" / "tuner"


def test_entries_come_back_as_they_were(tmp_path):
    cache = Cache(tmp_path)
    tensors = {"hidden": torch.randn(3, 5).bfloat16(), "pooled": torch.randn(7), "none": torch.zeros(0, 2)}
    assert cache.put("prompts", key_of("x"), tensors)
    back = cache.get("prompts", key_of("x"))
    assert back.keys() == tensors.keys() and all(torch.equal(back[n], t) for n, t in tensors.items())
    assert key_of("a", "bc") != key_of("ab", "c") and cache.get("prompts", key_of("y")) is None


def _share(rank, port, base, images, cache, told):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    from tuner.config import build
    from tuner.recipe import TrainConfig

    model, made = LatentDiffusion.load(base), Counter()
    for name in ("encode_images", "encode_prompts"):
        inner = getattr(model, name)
        setattr(model, name, lambda x, inner=inner, name=name: made.update({name: len(x)}) or inner(x))
    source = encoded(build(TrainConfig, {"images": images, "cache": cache}), model)
    told.put(
        (rank, made["encode_images"], made["encode_prompts"], source.moments.take(range(len(source))).sum().item())
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_processes_share_the_work(tiny_base, tmp_path, picture, shared, free_port):
    folder = tmp_path / "forty"
    folder.mkdir()
    for number in range(40):
        picture(number, (32, 32)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"number {number}")
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    caches = [tmp_path / "one", tmp_path / ("one" if shared else "other")]
    processes = [
        context.Process(target=_share, args=(rank, free_port, tiny_base, str(folder), str(caches[rank]), told))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    results = sorted(told.get(timeout=200) for _ in processes)
    for process in processes:
        process.join()
    assert results[0][3] == pytest.approx(results[1][3], rel=1e-5)
    images, prompts = (sum(result[k] for result in results) for k in (1, 2))
    assert (images, prompts) == ((40, 41) if shared else (80, 82))
    assert all(result[1] for result in results)


def test_the_fingerprint_is_of_every_bit(model):
    vae = copy.deepcopy(model.vae)
    before = fingerprints.weights(vae)
    last = list(vae.parameters())[-1]
    with torch.no_grad():
        last.view(-1)[-1] += 1e-3
    assert fingerprints.weights(vae) != before
    assert fingerprints.weights(copy.deepcopy(model.vae).half()) != before
