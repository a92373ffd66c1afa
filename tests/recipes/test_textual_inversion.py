"""`tuner textual-inversion`: what its own options do, and that nothing but the token's rows moves."""

import json
from pathlib import Path

import pytest
import torch

from tuner.adapters.artifact import Artifact
from tuner.adapters.embeddings import Embedding
from tuner.commands.recipes import recipe_file
from tuner.config import build
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class
from tuner.run import Run
from tuner.training.fit import fit
from tuner.training.precision import accelerator

KIND = recipe_class(load_recipe(recipe_file(place("recipes"), "textual-inversion")))
FAST = ("--steps", 3, "--batch-size", 2, "--samples", 0, "--threads", 1, "--quiet")


def made(base: str, **options):
    config = build(KIND.Config, {"base": base, "token": "<bear>", "threads": 1, **options})
    return KIND(config, KIND.base(config))


def started(base: str, images: str, out: Path, **options):
    recipe = made(base, images=images, out=str(out), samples=0, **options)
    run = Run.create(recipe.config, "test", "it")
    recipe.source = recipe.data(run)
    return recipe, run


@pytest.mark.parametrize("family", ["tiny", "sdxl"])
def test_every_other_row_stays_bit_for_bit_whatever_the_weight_decay(tiny_base, tiny_family, images, tmp_path, family):
    base = tiny_base if family == "tiny" else tiny_family(family)
    options = {"steps": 5, "vectors": 2, "learning_rate": 0.1, "weight_decay": 0.5, "batch_size": 2}
    recipe, run = started(base, images, tmp_path / "run", **options)
    before = [rows.detach().clone() for rows in recipe.rows]
    for _ in fit(recipe, recipe.source, run, accelerator(recipe.config)):
        pass
    fresh = LatentDiffusion.load(base)
    for trained, plain, rows, old in zip(
        recipe.model.text_encoders, fresh.text_encoders, recipe.rows, before, strict=True
    ):
        table = plain.get_input_embeddings().weight
        ids = torch.arange(len(table))
        assert torch.equal(trained.get_input_embeddings()(ids), table)
        assert (rows != old).any(1).all()  # every vector has learned
        own = {id(p) for p in recipe.parameters() if p.requires_grad}
        assert [name for name, p in trained.named_parameters() if id(p) in own] == [
            "embeddings.token_embedding.rows"
        ] or [name.rpartition(".")[2] for name, p in trained.named_parameters() if id(p) in own] == ["rows"]


def test_a_text_gives_the_first_vectors(tiny_family):
    base = tiny_family("sdxl")
    plain = LatentDiffusion.load(base)

    def rows_of(*words):
        ids = plain.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words])
        return [encoder.get_input_embeddings().weight[ids] for encoder in plain.text_encoders]

    one_each = made(base, init="teddy bear", vectors=2)
    assert all(torch.equal(a, b) for a, b in zip(one_each.rows, rows_of("teddy", "bear"), strict=True))
    mean = made(base, init="teddy bear", vectors=1)
    assert all(torch.allclose(a[0], b.mean(0)) for a, b in zip(mean.rows, rows_of("teddy", "bear"), strict=True))
    spread = made(base, init="teddy bear", vectors=3)
    for rows, known in zip(spread.rows, rows_of("teddy", "bear"), strict=True):
        assert torch.allclose(rows, known.mean(0).expand(3, -1), atol=0.1 * known.std().item())
        assert len(rows.unique(dim=0)) == 3
    neutral, again = made(base, vectors=2), made(base, vectors=2)
    for rows, same, encoder in zip(neutral.rows, again.rows, plain.text_encoders, strict=True):
        table = encoder.get_input_embeddings().weight
        assert torch.allclose(rows, table.mean(0).expand(2, -1), atol=0.1 * table.std().item())
        assert torch.equal(rows, same)


def test_a_prompt_that_names_the_token_holds_all_vectors_in_order(tiny_base):
    recipe = made(tiny_base, vectors=3)
    model = recipe.model
    with torch.no_grad():
        recipe.rows[0].copy_(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)))
    seen = []
    model.text_encoder.get_input_embeddings().register_forward_hook(lambda module, args, out: seen.append(out))
    model.encode_prompts(["a <BEAR> on a red background"])
    assert torch.equal(seen[0][0, 2:5], recipe.rows[0])
    plain = LatentDiffusion.load(tiny_base)
    table = plain.text_encoder.get_input_embeddings().weight
    around = plain.tokenizer(["a", "on a red background"], add_special_tokens=False).input_ids
    assert torch.equal(seen[0][0, 1:2], table[around[0]])
    assert torch.equal(seen[0][0, 5:9], table[around[1]])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("captions", {f"a <bear> on a {colour} background" for colour in ("red", "green", "blue", "white")}),
        ("own", {"my <bear>", "<bear> on red"}),
        ("object", None),
        ("style", None),
    ],
)
def test_templates(tiny_base, images, tmp_path, template, expected):
    if template == "own":
        template = str(tmp_path / "own.txt")
        Path(template).write_text("my {}\n\n{} on red\n")
    recipe, run = started(tiny_base, images, tmp_path / "run", template=template, caption_dropout=0.2)
    told = [recipe._prompts(recipe.source.batch(step, range(4))) for step in range(20)]
    again = [recipe._prompts(recipe.source.batch(step, range(4))) for step in range(20)]
    run.close()
    assert told == again
    prompts = {prompt for row in told for prompt in row}
    assert "" in prompts  # left out now and then, as captions are
    assert all("<bear>" in prompt for prompt in prompts - {""})
    assert expected is None or prompts - {""} == expected
    assert all("<bear>" in prompt for prompt in recipe.prompts(recipe.source))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--token", "bear"), "it has the word bear already"),
        (("--token", "two words"), "is not one word"),
        (("--token", " "), "is not one word"),
        (("--vectors", 0), "--vectors"),
        (("--vectors", 15), "do not fit into a prompt of 16 tokens"),
        (("--template", "nowhere.txt"), "--template nowhere.txt is no text file"),
    ],
)
def test_wrong_requests(tuner, tiny_base, images, tmp_path, flags, sentence):
    call = ("textual-inversion", "--base", tiny_base, "--images", images, "--out", tmp_path / "run")
    result = tuner(*call, *flags, *FAST)
    assert result.exit_code == 2
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_template_without_a_place_for_the_token(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("a {}\na bear\n")
    with pytest.raises(RequestError, match=r'"a bear" has no \{\}'):
        KIND.check(build(KIND.Config, {"images": str(tmp_path), "template": str(file)}))


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory):
    """A run on the folder `pictures`, by the command line."""
    from PIL import Image
    from typer.testing import CliRunner

    from tuner.commands import app

    folder = tmp_path_factory.mktemp("word")
    (folder / "my pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (200, 40 * number, 60)).save(folder / "my pictures" / f"{number}.png")
    call = ("textual-inversion", "--base", tiny_base, "--images", folder / "my pictures", "--vectors", 2, *FAST)
    result = CliRunner().invoke(app, [*map(str, call), "--samples", "1", "--out", str(folder / "run")])
    assert result.exit_code == 0, result.stderr
    return folder / "run", result.stdout


def test_a_run_without_captions_says_how_to_use_the_token(trained):
    run, said = trained
    assert "2 vectors of <my-pictures> land in diffusers, ComfyUI and A1111" in said
    assert "taking the token back restores the base exactly" in said
    file = run / "my-pictures.safetensors"
    tensors = Artifact.load(file).tensors
    assert [(name, rows.shape, rows.dtype) for name, rows in tensors.items()] == [
        ("<my-pictures>", (2, 16), torch.float32)
    ]
    card = (run / "README.md").read_text()
    assert 'pipe.load_textual_inversion("my-pictures.safetensors")' in card
    assert "`embedding:my-pictures`" in card and "`<my-pictures>`" in card
    assert 'instance_prompt: "a <my-pictures>"' in card
    assert f"--adapter {file}" in said


def test_the_run_can_be_judged(tuner, trained, images):
    run, _ = trained
    result = tuner(
        "evaluate", run, "--count", 1, "--steps", 1, "--prompt", "{} on a red background", "--other", "a cat",
        "--json", "--out", run / "judged",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "a <my-pictures> on a red background" in json.dumps(json.loads(result.stdout))


def test_a_lora_starts_from_the_token_and_goes_on_training_it(tuner, tiny_base, trained, images, tmp_path):
    word = trained[0] / "my-pictures.safetensors"
    call = ("lora", "--base", tiny_base, "--images", images, "--trigger", "<my-pictures>", "--embedding", word, *FAST)
    kept, moved = tmp_path / "kept", tmp_path / "moved"
    assert tuner(*call, "--out", kept).exit_code == 0
    result = tuner(*call, "--embedding-learning-rate", 0.01, "--train-text-encoder", "--out", moved)
    assert result.exit_code == 0, result.stderr
    assert "both namings give the same picture" in result.stdout
    assert "2 vectors of <my-pictures> land in diffusers" in result.stdout
    before = Embedding.load(word).word.vectors[0]
    assert torch.equal(Embedding.load(kept / "pictures-token.safetensors").word.vectors[0], before)
    after = Embedding.load(moved / "pictures-token.safetensors").word
    assert after.token == "<my-pictures>" and (after.vectors[0] != before).any(1).all()
    flags = result.stdout.split("--adapter ")
    assert len(flags) == 3  # the LoRA and the token


def test_wrong_requests_for_a_token_to_start_from(tuner, tiny_base, images, tmp_path):
    call = ("lora", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, "--embedding-learning-rate", 0.01)
    assert result.exit_code == 2 and "--embedding-learning-rate needs a token" in result.stderr
    result = tuner(*call, "--embedding", tmp_path / "none.safetensors")
    assert result.exit_code == 2 and "there is no such file" in result.stderr
