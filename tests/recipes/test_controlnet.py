"""`tuner controlnet`: what its own options do, what its folder is, and what autograd keeps."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tuner.adapters.artifact import Artifact
from tuner.config import build
from tuner.data.batch import Batch
from tuner.errors import RequestError
from tuner.models.control import new_controlnet
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.places import place
from tuner.randomness import Draws
from tuner.recipe import load_recipe, recipe_class

KIND = recipe_class(load_recipe(place("recipes") / "controlnet.py"))
FAST = ("--steps", 3, "--batch-size", 2, "--learning-rate", "1e-2", "--quiet")


def recipe(base: str, **options):
    config = build(KIND.Config, {"base": base, **options})
    return KIND(config, KIND.base(config))


def batch_of(model: LatentDiffusion) -> Batch:
    side = model.resolution
    moments = model.encode_images(torch.rand(2, 3, side, side) * 2 - 1)
    told = model.encode_prompts(["a cat", "a red dog"])
    return Batch(Draws.at(0, 0, [0, 1]), ("", ""), moments, conditioning=told, control=torch.rand(2, 3, side, side))


@pytest.mark.parametrize("base", ["sd1", "sd2", "sdxl"])
def test_nothing_of_the_frozen_encoder_is_kept(tiny_family, base):
    """No output of the U-Net's encoder or middle has a graph, and autograd saves nothing while they compute."""
    made = recipe(tiny_family(base))
    unet, inside, saved, outputs = made.model.unet, [], {"encoder": 0, "elsewhere": 0}, []

    def enters(module, args):
        inside.append(module)

    def leaves(module, args, output):
        inside.pop()
        states = output if isinstance(output, tuple) else (output,)
        outputs.extend(t for part in states for t in (part if isinstance(part, tuple) else (part,)))

    def kept(tensor):
        saved["encoder" if inside else "elsewhere"] += tensor.nbytes
        return tensor

    for part in (unet.conv_in, unet.time_embedding, *unet.down_blocks, unet.mid_block):
        part.register_forward_pre_hook(enters)
        part.register_forward_hook(leaves)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        loss = made(batch_of(made.model)).mean()
    assert len(outputs) > 4 and not any(output.requires_grad for output in outputs)
    assert saved["encoder"] == 0 < saved["elsewhere"]
    loss.backward()
    assert all(p.grad is None for p in unet.parameters())
    zeros = [p for p in made.network.parameters() if not p.any()]
    assert zeros and sum(p.grad.abs().sum() for p in zeros) > 0


def test_it_begins_as_the_bases_own_encoder(tiny_base):
    made = recipe(tiny_base, seed=5)
    own, encoder = made.network.state_dict(), made.model.unet.state_dict()
    shared = [name for name in own if name in encoder]
    assert len(shared) > 30 and all(torch.equal(own[name], encoder[name]) for name in shared)
    zero = [name for name in own if "controlnet_down_blocks" in name or "controlnet_mid" in name or "conv_out" in name]
    assert not any(own[name].any() for name in zero)
    assert made.network.config.conditioning_embedding_out_channels == (16, 32, 96)  # 4 pixels to a latent's side
    again = recipe(tiny_base, seed=5).network.state_dict()
    assert all(torch.equal(own[name], again[name]) for name in own)


def test_half_precision(tuner, tiny_base, images, tmp_path):
    """The frozen U-Net is held in bf16, what trains in fp32; the file is of the precision asked for."""
    call = ("controlnet", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, "--precision", "bf16", "--save-precision", "fp16")
    assert result.exit_code == 0, result.stderr
    assert "draws with it what is drawn here" in result.stdout
    held = Artifact.load(tmp_path / "run" / "controlnet" / "diffusion_pytorch_model.safetensors").tensors
    assert {tensor.dtype for tensor in held.values()} == {torch.float16}


def test_a_quantised_base_is_copied_whole(tiny_base):
    whole, packed = recipe(tiny_base), recipe(tiny_base, quantize="int8")
    assert any(p.dtype == torch.int8 for p in packed.model.unet.parameters())
    mine = packed.network.state_dict()
    assert all(torch.equal(tensor, mine[name]) for name, tensor in whole.network.state_dict().items())
    packed(batch_of(packed.model)).mean().backward()
    assert packed.network.controlnet_mid_block.weight.grad.abs().sum() > 0


def test_checkpointing_takes_the_same_steps(tiny_base):
    grads = []
    for anew in (False, True):
        made = recipe(tiny_base, gradient_checkpointing=anew)
        assert made.network.is_gradient_checkpointing == anew
        torch.nn.init.constant_(made.network.controlnet_mid_block.weight, 0.1)
        made(batch_of_seed(made.model)).mean().backward()
        grads.append({name: p.grad for name, p in made.network.named_parameters()})
    assert all(torch.allclose(grads[0][name], grads[1][name], atol=1e-7) for name in grads[0])


def batch_of_seed(model: LatentDiffusion) -> Batch:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return batch_of(model)


def test_a_run_its_folder_and_its_words(tuner, tiny_base, images, tmp_path, monkeypatch):
    """Trained on a folder of conditions; the model card's lines draw what `tuner generate` draws."""
    given = tmp_path / "given"
    given.mkdir()
    for file in Path(images).glob("*.png"):
        Image.open(file).convert("L").save(given / file.name)
    call = ("controlnet", "--base", tiny_base, "--images", images, "--out", tmp_path / "run")
    result = tuner(*call, "--condition", given, *FAST)
    assert result.exit_code == 0, result.stderr
    assert "StableDiffusionControlNetPipeline of diffusers loads the folder" in result.stdout
    assert "--control-image" in result.stdout.splitlines()[-1]
    monkeypatch.chdir(tmp_path / "run")
    condition = Image.open("condition.png")
    assert condition.size == (32, 32) and condition.tobytes() in {
        Image.open(file).convert("RGB").tobytes() for file in given.glob("*.png")
    }
    code = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[0]
    exec(code.replace(").images", ", num_inference_steps=2).images"), {})
    assert Image.open("picture.png").size == (32, 32)
    sheet = Image.open("samples/sheet.png")
    assert sheet.width > 4 * 128  # a condition and a picture, before and after
    flags = ("--base", tiny_base, "--control", "controlnet", "--steps", 2, "--quiet")
    for name, seen in (("one", "condition.png"), ("other", "picture.png")):
        assert tuner("generate", "a cat", *flags, "--control-image", seen, "--out", name).exit_code == 0
    assert Image.open("one/0000.png").tobytes() != Image.open("other/0000.png").tobytes()


def test_a_column_of_the_data_set_is_the_condition(tuner, tiny_base, images, tmp_path):
    (Path(images) / "gray").mkdir()
    rows = []
    for file in sorted(Path(images).glob("*.png")):
        Image.open(file).convert("L").save(Path(images) / "gray" / file.name)
        rows.append({"file_name": file.name, "conditioning_image_file_name": f"gray/{file.name}", "text": "a cat"})
    (Path(images) / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    call = ("controlnet", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, "--condition", "column:conditioning_image")
    assert result.exit_code == 0, result.stderr
    first = Image.open(Path(images) / "gray" / "blue.png").convert("RGB")
    assert Image.open(tmp_path / "run" / "condition.png").tobytes() == first.tobytes()
    result = tuner(*call, "--out", tmp_path / "other", "--condition", "column:depth")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.endswith("has no such column; its columns with pictures: conditioning_image.\n")


def test_going_on_from_another(tuner, tiny_base, tiny_family, images, tmp_path):
    model = LatentDiffusion.load(tiny_base)
    first = new_controlnet(model.unet, model.scale, seed=9)
    for parameter in first.parameters():
        parameter.data += 0.01
    first.save_pretrained(tmp_path / "first")
    made = recipe(tiny_base, control=str(tmp_path / "first"))
    assert all(torch.equal(t, made.network.state_dict()[name]) for name, t in first.state_dict().items())
    assert all(p.requires_grad for p in made.network.parameters())
    for base, folder, fault in (
        (tiny_family("sd1"), "first", "does not fit this base"),
        (tiny_base, "none", "is not a"),
    ):
        call = ("controlnet", "--base", base, "--images", images, "--control", tmp_path / folder, "--out", "run", *FAST)
        result = tuner(*call)
        assert result.exit_code == 2 and fault in result.stderr, result.stderr


def test_wrong_requests(tuner, tiny_base, images):
    for flags, told in (
        (("--condition", "sketchy"), "--condition sketchy: there is no such condition and no such folder"),
        (("--caption-dropout", 0.5), "--caption-dropout is called --prompt-dropout here."),
        (("--prompt-dropout", 2), "--prompt-dropout must be at most 1, not 2."),
    ):
        result = tuner("controlnet", "--base", tiny_base, "--images", images, *flags)
        assert result.exit_code == 2 and told in result.stderr, result.stderr


def test_prompts_are_left_out(tiny_base, images, tmp_path):
    from tuner.run import Run

    config = build(KIND.Config, {"base": tiny_base, "images": images, "out": str(tmp_path / "run")})
    made = KIND(config, KIND.base(config))
    source = made.data(Run.create(config, "test", "it"))
    captions = [caption for step in range(100) for caption in source.batch(step, range(4)).captions]
    assert 150 < captions.count("") < 250


def test_levels_without_an_encoder_of_conditions_of_their_size_are_refused(tiny_base, tmp_path):
    model = LatentDiffusion.load(tiny_base)
    new_controlnet(model.unet, 8, seed=0).save_pretrained(tmp_path / "eight")
    with pytest.raises(RequestError, match="it takes 8 pixels for a latent's side, the base 4"):
        recipe(tiny_base, control=str(tmp_path / "eight"))
