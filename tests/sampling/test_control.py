"""Pictures that are steered: the loop agrees with diffusers' own pipelines; what `tuner generate --control` says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.models.control import new_controlnet, new_t2i_adapter
from tuner.models.control_folder import pipeline
from tuner.models.samplers import SAMPLERS
from tuner.sampling.control import Control, Steering
from tuner.sampling.drawing import draw
from tuner.sampling.images import Source
from tuner.sampling.shots import Shot

FAMILIES = ("sd1", "sd2", "sdxl")
MADE = {"controlnet": new_controlnet, "t2i_adapter": new_t2i_adapter}


@pytest.fixture(scope="module")
def network():
    """`network("controlnet", model)`: one that changes what is drawn: its zeros are zeros no more."""

    def made(kind: str, model, seed: int = 0):
        new = MADE[kind](model.unet, model.scale, seed).requires_grad_(False).eval()
        generator = torch.Generator().manual_seed(seed)
        for parameter in new.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return new

    return made


def noise(width: int, height: int, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To 1e-5 of the latents' own deviation."""
    assert theirs.isfinite().all()
    assert ((ours - theirs).abs().max() / theirs.std()).item() < 1e-5


def steered(latents_of, model, shots, controls, sampler: str = "dpm++", **options) -> torch.Tensor:
    size = (shots[0].width or model.resolution, shots[0].height or model.resolution)
    return latents_of(model.pipeline(sampler), shots, control=Steering(controls, size, model.device), **options)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("family", FAMILIES)
def test_guided(family_model, latents_of, network, kind, family):
    model = family_model(family)
    made, shots = network(kind, model), [Shot("a cat", 5, "blue", 3, 3.0), Shot("a red dog", 6, "blue", 3, 3.0)]
    picture = noise(model.resolution, model.resolution)
    ours = steered(latents_of, model, shots, [Control(made, picture, weight=0.7)])
    scale = "controlnet_conditioning_scale" if kind == "controlnet" else "adapter_conditioning_scale"
    theirs = pipeline(model, made, "dpm++")(
        ["a cat", "a red dog"], image=[picture, picture], negative_prompt=["blue"] * 2, num_inference_steps=3,
        guidance_scale=3.0, generator=generators(5, 6), output_type="latent", **{scale: 0.7},
    ).images  # fmt: skip
    close(ours, theirs)
    assert (ours - latents_of(model.pipeline("dpm++"), shots)).abs().max() > 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", MADE)
def test_every_sampler_without_guidance_and_not_square(model, latents_of, network, kind, sampler):
    made, picture = network(kind, model), noise(48, 32)
    shots = [Shot("a cat", 5, "", 3, 1.0, 48, 32)]
    ours = steered(latents_of, model, shots, [Control(made, picture)], sampler)
    theirs = pipeline(model, made, sampler)(
        "a cat", image=picture, num_inference_steps=3, guidance_scale=1.0, generator=generators(5), width=48, height=32,
        output_type="latent",
    ).images  # fmt: skip
    close(ours, theirs)


@pytest.mark.parametrize("kind", MADE)
def test_several_with_weights(model, latents_of, network, kind):
    several, images = [network(kind, model, seed) for seed in (1, 2)], [noise(32, 32, 3), noise(32, 32, 4)]
    weights = (0.4, 1.3)
    controls = [Control(*pair, weight=weight) for *pair, weight in zip(several, images, weights, strict=True)]
    ours = steered(latents_of, model, [Shot("a cat", 5, "", 3, 3.0)], controls)
    scale = "controlnet_conditioning_scale" if kind == "controlnet" else "adapter_conditioning_scale"
    theirs = pipeline(model, several, "dpm++")(
        "a cat", image=images, num_inference_steps=3, guidance_scale=3.0, generator=generators(5),
        output_type="latent", **{scale: list(weights)},
    ).images  # fmt: skip
    close(ours, theirs)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 1.0), (0.3, 0.7)])
def test_a_share_of_the_steps(model, latents_of, network, start, end):
    made, picture = network("controlnet", model), noise(32, 32)
    ours = steered(latents_of, model, [Shot("a cat", 5, "", 5, 3.0)], [Control(made, picture, start=start, end=end)])
    theirs = pipeline(model, made, "dpm++")(
        "a cat", image=picture, num_inference_steps=5, guidance_scale=3.0, generator=generators(5),
        output_type="latent", control_guidance_start=start, control_guidance_end=end,
    ).images  # fmt: skip
    close(ours, theirs)
    outside = Control(made, picture, start=0.9, end=0.95)  # no step is within
    plain = latents_of(model.pipeline("dpm++"), [Shot("a cat", 5, "", 5, 3.0)])
    assert torch.equal(steered(latents_of, model, [Shot("a cat", 5, "", 5, 3.0)], [outside]), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_depends_on_its_own_seed_alone(family_model, latents_of, network, family):
    """With a ControlNet and a T2I-Adapter together."""
    model = family_model(family)
    controls = [Control(network(kind, model), noise(model.resolution, model.resolution)) for kind in MADE]
    shots = [Shot("a cat", seed, "", 2) for seed in (1, 2, 3)]
    together = steered(latents_of, model, shots, controls)
    for row, shot in enumerate(shots):
        close(together[row : row + 1], steered(latents_of, model, [shot], controls))
    for control in controls:
        assert (together - steered(latents_of, model, shots, [control])).abs().max() > 0.01


def test_from_a_picture_and_inside_a_mask(model, network):
    control = Control(network("controlnet", model), noise(40, 40), "canny")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 16))
    for source in (Source(noise(32, 32, 8), 0.5), Source(noise(32, 32, 8), 1.0, mask)):
        one, other = (next(iter(draw(model.pipeline("dpm++"), [Shot("a cat", 3, steps=4)], source=source, controls=c)))
                      for c in ([], [control]))  # fmt: skip
        assert one.size == other.size == (32, 32) and one != other


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, monkeypatch, model, network) -> Path:
    """A folder with `cn` and `t2i`, of the smallest base, and two pictures."""
    monkeypatch.chdir(tmp_path)
    for name, kind in (("cn", "controlnet"), ("t2i", "t2i_adapter")):
        network(kind, model).save_pretrained(tmp_path / name)
    noise(32, 32).save("a.png")
    noise(48, 32, 2).save("wide.png")
    return tmp_path


def drawn(tuner, base, out: str, *flags) -> Image.Image:
    result = tuner("generate", "a cat", "--base", base, "--steps", 2, "--quiet", "--out", out, *flags)
    assert result.exit_code == 0, result.stderr
    return Image.open(f"{out}/0000.png")


def test_the_command(tuner, tiny_base, saved):
    plain = drawn(tuner, tiny_base, "plain")
    one = drawn(tuner, tiny_base, "one", "--control", "cn:0.5", "--control-image", "a.png")
    assert one.text["parameters"].endswith('Control 1: "cn:0.5, a.png, given"')
    both = drawn(tuner, tiny_base, "both", "--control", "cn:0.5", "--control", "t2i", "--control-image", "a.png",
                 "--control-image", "a.png", "--control-condition", "given", "--control-condition", "canny",
                 "--control-end", 0.5)  # fmt: skip
    assert '"t2i, a.png, canny", Control steps: 0 to 0.5' in both.text["parameters"]
    wide = drawn(tuner, tiny_base, "wide", "--control", "cn", "--control-image", "wide.png")
    assert wide.size == (48, 32) and one.size == (32, 32)
    nothing = drawn(tuner, tiny_base, "nothing", "--control", "cn:0", "--control-image", "a.png")
    assert nothing.tobytes() == plain.tobytes()
    assert len({picture.tobytes() for picture in (plain, one, both)}) == 3


def test_the_command_with_a_lora(tuner, tiny_base, saved, images):
    flags = ("--base", tiny_base, "--images", images, "--steps", 3, "--learning-rate", "1e-2", "--samples", 0)
    assert tuner("lora", *flags, "--out", "run", "--name", "mine", "--quiet").exit_code == 0
    control = ("--control", "cn", "--control-image", "a.png")
    ways = [(), control, ("--adapter", "run/mine.safetensors"), (*control, "--adapter", "run/mine.safetensors")]
    assert len({drawn(tuner, tiny_base, f"way{n}", *way).tobytes() for n, way in enumerate(ways)}) == 4


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--control", "cn"], "--control and --control-image come in pairs"),
        (["--control-end", "0.5"], "name a control network"),
        (["--control", "cn", "--control-image", "a.png", "--control-start", "1"], "must be more than --control-start"),
        (["--control", "none", "--control-image", "a.png"], "there is no such folder; name one as DIR or as DIR:W"),
        (["--control", "cn:much", "--control-image", "a.png"], "much is not a weight; write a number, as in cn:0.8."),
        (["--control", "cn", "--control-image", "none.png"], "--control-image none.png cannot be read"),
        (["--control", ".", "--control-image", "a.png"], "--control . is not a control network"),
        (["--control", "cn", "--control-image", "wide.png", "--resolution", "32"], "what is drawn 32 x 32"),
        (["--control", "cn", "--control-image", "a.png", "--control-condition", "cany"], "did you mean canny?"),
        (["--control", "cn", "--control-image", "a.png", "--upscale", "2", "--image", "a.png"], "say by --strength"),
    ],
)  # fmt: skip
def test_wrong_requests(tuner, tiny_base, saved, flags, told):
    result = tuner("generate", "a cat", "--base", tiny_base, "--quiet", *flags)
    assert result.exit_code == 2 and told in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not Path("pictures").exists()


def test_networks_of_other_bases(tuner, tiny_family, saved):
    faults = {
        "cn": "its block_out_channels is (16, 32), the base's (16, 32, 32); name the base it was made for.",
        "t2i": "its features are 16 every 4 pixels, 32 every 8 pixels, the base's 16 every 16 pixels, 32 every 16 pix",
    }
    for name, fault in faults.items():
        flags = ("--base", tiny_family("sdxl"), "--control", name, "--control-image", "a.png")
        result = tuner("generate", "a cat", *flags)
        assert result.exit_code == 2 and "does not fit this base: " + fault in result.stderr, result.stderr
    file = saved / "cn" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-99])
    result = tuner("generate", "a cat", "--base", tiny_family("sd1"), "--control", "cn", "--control-image", "a.png")
    assert result.exit_code == 2 and "--control cn could not be loaded" in result.stderr, result.stderr
