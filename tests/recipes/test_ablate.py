"""`tuner ablate`: its objectives against the papers' formulas, and what it leaves."""

from dataclasses import replace
from itertools import count, pairwise

import pytest
import torch

from tuner.config import build
from tuner.data import vocabulary
from tuner.models import adversary
from tuner.models.shifts import unadapted
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class
from tuner.run import Run

RECIPE = recipe_class(load_recipe(place("recipes") / "ablate.py"))


@pytest.fixture
def made(tiny_base, tmp_path):
    """A recipe with its data, as a run has it before its first step."""

    names = (f"run-{number}" for number in count())

    def make(**options):
        values = {"target": ["teddy bear"], "anchor": ["dog"], "base": tiny_base, "force": True, "anchor_images": 1}
        config = build(RECIPE.Config, {**values, "batch_size": 2, "out": str(tmp_path / next(names)), **options})
        run = Run.create(config, "test", "it")
        recipe = RECIPE(config, RECIPE.base(config).to("cpu"))
        recipe.source = recipe.data(run)
        run.close()
        return recipe

    return make


def moved(recipe):
    """The same with shifts that are not zero, so that model and base differ."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, one in recipe.changes.shifts.items():
            one.difference.copy_(0.05 * torch.randn(one.difference.shape, generator=generator))
    return recipe


def lesson(recipe):
    """A batch, its noised latents, and the prompts that learn and teach."""
    batch = recipe.source.batch(0, [0, 1])
    pair = recipe.pairs[0]
    return batch, recipe.model.noised(batch), [pair.target] * 2, [pair.anchor] * 2


def predicted(model, x, prompts):
    return model.predict(x.noisy, x.t, model.encode_prompts(prompts))


def mean(error):
    return error.square().mean((1, 2, 3))


@pytest.mark.parametrize("regularise", [0.0, 0.4])
def test_model_and_noise_are_the_paper_s_losses(made, regularise):
    for method in ("model", "noise"):
        recipe = moved(made(method=method, regularise=regularise))
        _, x, targets, anchors = lesson(recipe)
        target, anchor = (predicted(recipe.model, x, texts) for texts in (targets, anchors))
        wanted = anchor.detach() if method == "model" else x.noise  # of the weights as they are now
        expected = mean(target - wanted) + regularise * mean(anchor - x.noise)
        assert torch.allclose(recipe.method.loss(recipe, x, targets, anchors, None), expected, rtol=1e-4)


def test_no_gradient_flows_through_what_teaches(made):
    recipe = moved(made(method="model", regularise=0.0))
    _, x, targets, _ = lesson(recipe)
    loss = recipe.method.loss(recipe, x, targets, targets, None)  # both sides are the same prediction
    loss.sum().backward()
    assert loss.max() == 0 and all(one.difference.grad.abs().max() == 0 for _, one in recipe.changes.shifts.items())


def test_the_default_is_taught_by_the_base(made):
    recipe = moved(made(regularise=3.0))
    _, x, targets, anchors = lesson(recipe)
    plain = RECIPE.base(recipe.config)
    students, teachers = [targets[0], anchors[0]], [anchors[0], anchors[0]]
    expected = mean(predicted(recipe.model, x, students) - predicted(plain, x, teachers))
    found = recipe.method.loss(recipe, x, students, teachers, None)
    assert torch.allclose(found, expected * torch.tensor([1.0, 3.0]), rtol=1e-4)  # what stays has its own weight


def shown(recipe, size=6):
    """A batch in which some pictures are the target's, and which these are."""
    for step in range(9):
        batch = recipe.source.batch(step, range(size))
        taken = zip(batch.captions, *recipe.lessons.taken(batch), strict=True)
        found = [i for i, (caption, target, anchor) in enumerate(taken) if caption == target != anchor]
        if 0 < len(found) < size:
            return batch, found
    raise AssertionError("no batch has both")


def test_attacks_on_the_target_s_pictures_are_withstood(made):
    """On these, and no others, the states that would draw the target best predict what the base does of the anchor."""
    recipe, calm = moved(made(attacks=3)), moved(made(attacks=0))
    with torch.no_grad():
        recipe.searches.offsets.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    batch, found = shown(recipe)
    x, (_, anchors) = recipe.model.noised(batch), recipe.lessons.taken(batch)
    more = recipe(batch) - calm(batch)
    assert [i for i, one in enumerate(more.tolist()) if one] == found
    turns = batch.draw.integers("attack", 3).tolist()
    for i in found:
        start = recipe.lessons.told([(batch.captions[i], anchors[i])[turns[i] % 2]])  # its own words, or its anchor's
        worst, _ = adversary.moved(recipe.model, x[[i]], start, recipe.searches.offsets[[turns[i]]])
        wanted = recipe.known(x[[i]], [anchors[i]])
        reached = mean(recipe.model.predict(x.noisy[[i]], x.t[[i]], worst) - wanted)[0]
        assert torch.allclose(more[i], 2 * reached, rtol=1e-2)
    more.sum().backward()
    assert any(one.difference.grad.abs().max() > 0 for _, one in recipe.changes.shifts.items())
    searched = recipe.searches.offsets.grad.flatten(1).norm(dim=1) > 0
    assert searched.nonzero()[:, 0].tolist() == sorted({turns[i] for i in found})


def test_each_target_has_searches_of_its_own_and_a_batch_without_its_pictures_is_no_error(made):
    recipe = made(target=["teddy bear", "cat"], anchor=["dog"], attacks=2)
    assert recipe.searches.offsets.shape[0] == 4 and len(recipe.groups()) == 3
    for number, words in enumerate(("teddy bear", "cat")):
        target = next(pair.target for pair in recipe.pairs if pair.target_words == words)
        batch = recipe.source.batch(0, [0, 1])
        batch = replace(batch, captions=(target, "nothing of these"))
        found = recipe.searches.on(batch, [target, "a dog"], ["a dog", "a dog"])
        assert found.rows == [0] and found.prompts[0] in (target, "a dog")
        found.offsets.sum().backward()
        assert recipe.searches.offsets.grad.flatten(1).any(dim=1).nonzero()[:, 0] // 2 == number
        recipe.searches.offsets.grad = None
    none = recipe.searches.on(batch, ["a dog"] * 2, ["a dog"] * 2)
    loss = recipe.method.loss(recipe, recipe.model.noised(batch), ["a dog"] * 2, ["a dog"] * 2, none)
    loss.sum().backward()
    assert loss.shape == (2,) and recipe.searches.offsets.grad is not None and not recipe.searches.offsets.grad.any()


def test_a_lora_beside_the_readers_learns_faster_and_is_taken_off_with_them(made):
    recipe, plain = moved(made()), made(train="cross-attention")
    own, lora, attacks = recipe.groups()
    assert lora["lr"] == 2 * recipe.config.learning_rate and len(plain.groups()) == 2
    assert attacks["params"] == [recipe.searches.offsets] and attacks["lr"] == adversary.RATE
    assert attacks["weight_decay"] == adversary.BOUND and "lr" not in made(optimizer="prodigy").groups()[-1]
    every = {id(p) for p in recipe.parameters() if p.requires_grad and p is not recipe.searches.offsets}
    assert {id(p) for p in own["params"]} | {id(p) for p in lora["params"]} == every
    readers = {name for name, _ in recipe.changes.shifts.items()}
    assert readers == {name for name, _ in plain.changes.shifts.items()}
    names = {name for name, p in recipe.named_parameters() if p.requires_grad and "lora_" in name}
    assert names and not any(f"{reader}." in name for name in names for reader in readers)
    assert any("ff.net" in name for name in names) and any("attn1" in name for name in names)


def test_esd_leads_away_from_what_the_base_knows(made):
    recipe = made(method="esd")
    _, x, targets, anchors = lesson(recipe)
    at_first = recipe.method.loss(recipe, x, targets, anchors, None)
    known, empty = (recipe.known(x, texts) for texts in (targets, [""] * 2))
    assert at_first.shape == (2,) and (at_first > 0).all()
    # with the base's own weights, and at a timestep that the way begins with, the loss is 4 |known - empty|^2
    start = replace(x, t=torch.full((2,), recipe.model.timesteps - 1), noisy=x.noise)
    known, empty = (recipe.known(start, texts) for texts in (targets, [""] * 2))
    assert torch.allclose(recipe.method.loss(recipe, start, targets, anchors, None), 4 * mean(known - empty), rtol=1e-3)


def test_what_is_to_stay_is_shown_and_targets_are_not_kept(made):
    recipe = made(retain=["a cat", "a Teddy Bear on a white background", "a cat"])
    assert recipe.lessons.kept == ["a cat"]
    assert {pair.target for pair in recipe.lessons.pairs["a cat"]} == {"a cat"}
    assert set(recipe.source.captions) >= {"a cat", "a dog", "a teddy bear"}
    anchors_only = made(method="model")
    assert all("dog" in caption for caption in anchors_only.source.captions) and not anchors_only.lessons.words
    assert made(method="uce", retain=["a cat"]).lessons.kept == ["a cat"] and "a dog" in made().lessons.kept


def test_beside_a_style_the_usual_others_are_shown(made, monkeypatch):
    monkeypatch.setattr(vocabulary, "STYLES", ("watercolor", "pixel art"))  # a few pictures do
    style = made(target=["watercolor"], anchor=["photo"], kind="style", retain=["a cat"])
    others = [text for text in style.source.captions if " pixel art of " in text]
    assert len(others) == 2 and {"a cat", *others} <= {*style.lessons.kept}
    assert not any("watercolor" in text for text in style.lessons.kept)
    assert style.searches is None, "what draws a style best draws others, too"


def test_other_words_of_the_base_s_own_are_to_mean_what_they_did(made):
    """Half of what stays is their turn: on pictures of what is kept, and of anchors, where these are to stay."""
    recipe = made(retain=["a cat"])
    lessons, known = recipe.lessons, vocabulary.free(vocabulary.whole_words(recipe.model.tokenizers[0]), recipe.pairs)
    assert len(lessons.words) == vocabulary.ANY + vocabulary.EACH * min(len(known), vocabulary.NEAR)
    assert not any({"teddy", "bear"} & {*text.split()} for text in lessons.words)
    assert sum(text.endswith(" on a white background") for text in lessons.words) > 10
    assert made(retain=["a cat"]).lessons.words == lessons.words
    kept = [lessons._lesson("a cat", turn) for turn in range(64)]
    assert [pair.target == "a cat" for pair in kept] == [True, False] * 32
    assert all(pair.target == pair.anchor for pair in kept) and len({pair.target for pair in kept}) > 16
    anchor = [lessons._lesson("a dog", turn).target for turn in range(64)]
    assert anchor.count("a teddy bear") == 32 and anchor.count("a dog") == 16
    target = {lessons._lesson("a teddy bear", turn) for turn in range(64)}
    assert {(pair.target, pair.anchor) for pair in target} == {("a teddy bear", "a dog")}


def test_the_closed_form_is_the_least_squares_solution(made):
    from tuner.models.closed_form import aligned, remapped

    recipe = made(method="uce", retain=["a cat", "a photo of a cat"])
    states, wanted = aligned(recipe.model.tokenizers[0], recipe.lessons.told, recipe.pairs)
    kept = recipe.lessons.told(recipe.lessons.kept).hidden.flatten(0, 1)
    shown = dict.fromkeys(pair.anchor for pair in recipe.pairs)  # which no step will hold
    anchors = recipe.lessons.told([*shown]).hidden.flatten(0, 1)
    change = remapped(states, wanted, [kept, anchors], ridge=1e-3, hold=5.0).double()

    def cost(m):
        miss = ((wanted - states).double() - states.double() @ m.T).square().sum(1).mean()
        stays = sum((its.double() @ m.T).square().sum(1).mean() for its in (kept, anchors))
        return miss + 5 * stays + 1e-3 * m.square().sum()

    least = cost(change)
    for seed in range(3):
        other = torch.randn(change.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
        assert cost(change + 1e-2 * other) > least and cost(change - 1e-2 * other) > least
    recipe.begin()
    for _, one in recipe.changes.shifts.items():
        assert torch.allclose(one.difference, one.base_layer.weight @ change.float(), atol=1e-5)


def test_text_encoders_are_not_needed_once_prompts_are_read(made):
    """A run takes them off the device before its first step: nothing after that may ask them."""
    for method in ("default", "uce", "model", "esd"):
        recipe = made(method=method)
        for encoder in recipe.model.text_encoders:
            encoder.to("meta")  # what they make there goes together with nothing
        recipe.begin()
        assert recipe(recipe.source.batch(0, [0, 1])).isfinite().all()


def test_anchors_are_drawn_once_whatever_is_trained(made, monkeypatch, tmp_path):
    """By another target, another method, and another part of the U-Net: the cache has them."""
    from tuner.sampling import drawing

    drawn, draw = [], drawing.draw

    def counting(pipe, shots, **more):
        drawn.extend(shots)
        return draw(pipe, shots, **more)

    monkeypatch.setattr(drawing, "draw", counting)
    cache = str(tmp_path / "cache")
    for more in ({}, {"target": ["bear"]}, {"method": "noise"}, {"train": "unet"}):
        made(**{"method": "model", "cache": cache, **more})
    assert len(drawn) == 12
    made(anchor=["cat"], method="model", cache=cache)
    assert len(drawn) == 24


def test_without_a_step_pictures_are_not_drawn_for_it(made):
    assert len(made(method="uce", steps=0).source) == 1 and len(made(method="uce", steps=1).source) == 12


def test_words_stand_where_the_others_do(made):
    """A target of two words and an anchor of one: the last words meet, and so does all that follows."""
    from tuner.models.closed_form import aligned

    recipe = made()
    pair = recipe.pairs[2]
    assert (pair.target, pair.anchor) == ("a picture of a teddy bear", "a picture of a dog")
    states, wanted = aligned(recipe.model.tokenizers[0], recipe.lessons.told, [pair])
    target, anchor = recipe.lessons.told([pair.target, pair.anchor]).hidden
    start = 1 + len(pair.before.split())
    assert torch.equal(states, target[start:])
    assert torch.equal(wanted[1], anchor[start]) and torch.equal(wanted[2], anchor[start + 1])
    assert torch.equal(wanted[0], anchor[start])  # the word that is more


def test_partway_is_ddim_on_the_way(made):
    """The latents where an example stops are diffusers' own, with guidance."""
    from tuner.models.partway import partway

    recipe = made()
    model, steps, guidance = recipe.model, 5, 3.0
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    told, empty = (recipe.lessons.told([text] * 2) for text in ("a dog", ""))
    grid = torch.linspace(model.timesteps - 1, 0, steps + 1).round().long()
    found, t = partway(model, noise, told, empty, torch.stack([grid[0], grid[3]]), steps, guidance)
    assert t.tolist() == [grid[0], grid[3]] and torch.equal(found[0], noise[0])
    x = noise[1:].double()
    for now, then in pairwise(grid[:4]):
        eps = [model.predict(x.float(), now[None], one[:1]).double() for one in (told, empty)]
        both = eps[1] + guidance * (eps[0] - eps[1])
        a, b = model.alphas_cumprod[now], model.alphas_cumprod[then]
        x = b.sqrt() * (x - (1 - a).sqrt() * both) / a.sqrt() + (1 - b).sqrt() * both
    assert torch.allclose(found[1:].double(), x, atol=1e-4)


def test_taken_off_shifts_leave_the_base(made):
    recipe = moved(made())
    plain = RECIPE.base(recipe.config).to("cpu")
    _, x, targets, _ = lesson(recipe)
    with torch.no_grad(), unadapted(recipe.model.unet):
        off = predicted(recipe.model, x, targets)
    with torch.no_grad():
        assert torch.equal(off, predicted(plain, x, targets))
        assert not torch.equal(predicted(recipe.model, x, targets), off)
