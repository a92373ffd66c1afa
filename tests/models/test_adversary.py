"""States of the text that draw given pictures best, learned beside the weights."""

import torch

from tuner.models.adversary import BOUND, PULL, RATE, moved
from tuner.models.latent_diffusion import LatentDiffusion, Noised


def noised(model: LatentDiffusion, count: int) -> Noised:
    generator = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    t = torch.linspace(300, 700, count).long()
    return Noised(latents, noise, t, model.add_noise(latents, noise, t), model.target(latents, noise, t))


def told_to(model: LatentDiffusion):
    return model.encode_prompts(["a cat", "a red dog", "a dog"])


def test_steps_of_an_optimizer_find_states_that_draw_the_pictures_better(tiny_base):
    model = LatentDiffusion.load(tiny_base)
    x, told = noised(model, 3), told_to(model)
    offset = torch.nn.Parameter(torch.zeros_like(told.hidden[:1]))  # one for all
    optimizer, errors = torch.optim.AdamW([offset], lr=RATE, weight_decay=BOUND), []
    for _ in range(8):
        states, pulls = moved(model, x, told, offset.expand(3, -1, -1))
        assert pulls.tolist() == [0, 0, 0] and not states.hidden.requires_grad
        with torch.no_grad():
            errors.append(x.error(model.predict(x.noisy, x.t, states)).mean().item())
        pulls.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert errors[-1] < errors[0] and min(errors) == min(errors[4:])
    assert torch.equal(states.hidden[:, 0], told.hidden[:, 0]) and offset[:, 1:].abs().max() > RATE
    assert all(p.grad is None for p in model.unet.parameters())  # no weight moves to help


def test_an_offset_is_in_sizes_of_the_states_and_its_gradient_that_of_the_error(tiny_base):
    model = LatentDiffusion.load(tiny_base)
    x, told = noised(model, 3), told_to(model)
    offset = torch.randn(told.hidden.shape, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    states, pulls = moved(model, x, told, offset)
    size = told.hidden[:, 1:].square().mean((1, 2)).sqrt()
    assert torch.allclose(states.hidden, told.hidden + size[:, None, None] * offset, atol=1e-5)
    pulls.sum().backward()
    assert torch.allclose(offset.grad.flatten(1).norm(dim=1), torch.full((3,), PULL)) and (offset.grad[:, 0] == 0).all()
    errors = []
    for sign in (-1, 1):
        way = told.hidden + size[:, None, None] * (offset.detach() + sign * offset.grad)
        with torch.no_grad():
            errors.append(x.error(model.predict(x.noisy, x.t, type(told)(way))))
    assert (errors[0] < errors[1]).all()


def test_each_example_is_searched_for_alone_and_none_is_no_error(tiny_base):
    """So that batches, processes and accumulation do not change what is found."""
    model = LatentDiffusion.load(tiny_base)
    x, told, offset = noised(model, 3), told_to(model), torch.zeros(3, *told_to(model).hidden.shape[1:])
    whole, alone = offset.clone().requires_grad_(True), offset[[1]].clone().requires_grad_(True)
    moved(model, x, told, whole)[1].sum().backward()
    moved(model, x[[1]], told[[1]], alone)[1].sum().backward()
    assert torch.allclose(whole.grad[1], alone.grad[0], atol=1e-2 * PULL)
    none = moved(model, x[[]], told[[]], whole[[]])[1]
    assert none.shape == (0,) and none.requires_grad  # so that no process waits for a gradient
