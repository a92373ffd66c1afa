"""States of the text that draw given pictures best."""

import torch

from tuner.models.adversary import STRIDE, nearest
from tuner.models.latent_diffusion import LatentDiffusion, Noised


def noised(model: LatentDiffusion, count: int) -> Noised:
    generator = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    t = torch.linspace(300, 700, count).long()
    return Noised(latents, noise, t, model.add_noise(latents, noise, t), model.target(latents, noise, t))


def test_the_states_that_are_found_draw_the_pictures_better_and_better(tiny_base):
    model = LatentDiffusion.load(tiny_base)
    x, told = noised(model, 3), model.encode_prompts(["a cat", "a red dog", "a dog"])
    with torch.no_grad():
        errors = [x.error(model.predict(x.noisy, x.t, told))]
    for steps in (1, 4):
        found = nearest(model, x, told, steps)
        with torch.no_grad():
            errors.append(x.error(model.predict(x.noisy, x.t, found)))
        assert torch.equal(found.hidden[:, 0], told.hidden[:, 0]) and not found.hidden.requires_grad
        way = (found.hidden - told.hidden).flatten(1).norm(dim=1)
        assert (way <= steps * STRIDE * told.hidden[:, 1:].flatten(1).norm(dim=1) * 1.001).all() and (way > 0).all()
    assert (errors[1] < errors[0]).all() and (errors[2] < errors[1]).all()
    assert all(p.grad is None for p in model.unet.parameters())
    assert nearest(model, x, told, 0).hidden.equal(told.hidden)


def test_each_example_is_searched_for_alone(tiny_base):
    """So that batches, processes and accumulation do not change what is found."""
    model = LatentDiffusion.load(tiny_base)
    x, told = noised(model, 3), model.encode_prompts(["a cat", "a red dog", "a dog"])
    whole, alone = nearest(model, x, told, 2).hidden, nearest(model, x[[1]], told[[1]], 2).hidden
    assert torch.allclose(whole[1], alone[0], atol=1e-4 * whole.abs().max())
