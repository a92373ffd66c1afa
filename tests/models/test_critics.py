"""What an autoencoder is told beyond the difference of pixels."""

import json

import pytest
import torch

from tuner.errors import RequestError
from tuner.models.critics import PatchCritic, Perceptual


@pytest.fixture(scope="module")
def eye(tmp_path_factory):
    """A small ConvNeXt with random weights, as a folder."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    folder = tmp_path_factory.mktemp("eye") / "eye"
    config = ConvNextConfig(patch_size=2, num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    torch.manual_seed(0)
    ConvNextForImageClassification(config).save_pretrained(folder)
    prepared = {"image_processor_type": "ConvNextImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return str(folder)


def test_the_perceptual_distance_is_that_of_its_definition(eye):
    distance = Perceptual.load(eye)
    torch.manual_seed(1)
    one, other = torch.rand(2, 2, 3, 16, 16) * 2 - 1
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert torch.equal(distance(one, one), torch.zeros(2))
    expected = torch.zeros(2)
    with torch.no_grad():
        maps = [distance.network(x, output_hidden_states=True).hidden_states for x in (one, other)]
        for a, b in zip(*maps, strict=True):
            a, b = (x / x.square().sum(1, keepdim=True).sqrt() for x in (a, b))
            expected += ((a - b) ** 2).sum(1).mean((1, 2)) / len(maps[0])
    assert len(maps[0]) == 3
    assert torch.allclose(distance(one, other), expected, rtol=1e-4)
    blurred = torch.nn.functional.avg_pool2d(one, 3, 1, 1)
    assert (distance(one, blurred) > 0).all()


def test_a_network_without_maps_is_refused(tmp_path):
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(
        tmp_path / "vit"
    )
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    with pytest.raises(RequestError, match="of the kind vit; a perceptual distance takes"):
        Perceptual.load(str(tmp_path / "vit"))


def test_what_the_critic_learns_from_its_maker_unlearns():
    critic = PatchCritic(seed=1)
    torch.manual_seed(2)
    real, made = torch.randn(2, 3, 16, 16), (torch.randn(2, 3, 16, 16) * 0.1).requires_grad_()
    loss = critic(real, made, 0.5)
    assert loss.shape == (2,)
    loss.sum().backward()
    learned = [parameter.grad.clone() for parameter in critic.parameters()]
    plain = made.detach().clone().requires_grad_()
    torch.relu(1 + critic.layers(plain)).mean((1, 2, 3)).sum().backward()
    assert torch.allclose(made.grad, -0.5 * plain.grad)  # turned round and weighed
    critic.zero_grad()
    critic(real, made.detach(), 0.0).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(learned, critic.parameters(), strict=True))  # its own are not
    assert all(torch.equal(a, b) for a, b in zip(PatchCritic(1).parameters(), PatchCritic(1).parameters(), strict=True))


def test_the_decoder_trains_alone_with_both(tuner, tiny_base, images, eye, tmp_path):
    from safetensors.torch import load_file

    done = tuner("pretrain", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", "--stage", "decoder",
                 "--perceptual", eye, "--adversarial", 0.05, "--steps", 2, "--batch-size", 2, "--ema", 0,
                 "--samples", 0, "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    name = "vae/diffusion_pytorch_model.safetensors"
    before, after = (load_file(f"{folder}/{name}") for folder in (tiny_base, tmp_path / "run" / "pipeline"))
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key].float(), after[key].float())}
    assert changed == {"decoder", "post_quant_conv"} and before.keys() == after.keys()
