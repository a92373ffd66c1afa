"""Learned words as files: our own and other programs', loaded, told of, verified, and taken back."""

import copy
import json
from pathlib import Path

import pytest
import torch

from tuner.adapters.apply import adapted, apply_adapter
from tuner.adapters.artifact import Artifact
from tuner.adapters.embeddings import Embedding
from tuner.adapters.proof import picture
from tuner.adapters.verify import verify
from tuner.errors import RequestError, RunError
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.words import Word, teach

FAMILIES = ("tiny", "sd2", "sdxl")


@pytest.fixture(scope="session")
def load(tiny_base, tiny_family):
    return lambda family: LatentDiffusion.load(tiny_base if family == "tiny" else tiny_family(family))


def drawn(base, count: int = 2, token: str = "<fox>", seed: int = 5) -> Word:
    """A word of random vectors."""
    generator = torch.Generator().manual_seed(seed)
    widths = [encoder.config.hidden_size for encoder in base.text_encoders]
    return Word(token, tuple(torch.randn(count, width, generator=generator) for width in widths))


def written(base, folder: Path, **options) -> list[Path]:
    return Embedding.of(base, drawn(base, **options), {}).write(folder, "fox", torch.float32)


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("family", FAMILIES)
def test_files_are_proven_in_plain_diffusers(load, tmp_path, family, count):
    base = load(family)
    embedding = Embedding.of(base, drawn(base, count), {"seed": "7"})
    paths = embedding.write(tmp_path, "fox", torch.float32)
    keys = {"clip_l", "clip_g"} if family == "sdxl" else {"<fox>"}
    assert set(Artifact.load(paths[0]).tensors) == keys
    assert len(paths) == (3 if family == "sdxl" else 1)
    assert Embedding.load(paths[0]).word.token == "<fox>"
    sentences = embedding.prove(paths, load(family))
    assert "diffusers' own loading gives the same picture" in sentences


def test_the_pair_for_diffusers_loads_as_the_card_says(load, tmp_path):
    base = load("sdxl")
    word, paths = drawn(base, 2), written(base, tmp_path)
    pipe = base.pipeline()
    for path, encoder, tokenizer in zip(paths[1:], base.family.encoders, base.family.tokenizers, strict=True):
        parts = {"text_encoder": getattr(pipe, encoder), "tokenizer": getattr(pipe, tokenizer)}
        pipe.load_textual_inversion(str(path), **parts)
    for encoder, rows in zip(base.text_encoders, word.vectors, strict=True):
        assert torch.equal(encoder.get_input_embeddings().weight[-2:], rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_and_loras_together_and_taken_back_exactly(load, make, tmp_path, family):
    base = load(family)
    pipe = base.pipeline("ddim")
    files = [(written(base, tmp_path / "one")[0], 1.0)]
    files.append((written(base, tmp_path / "two", token="zorbo", count=1, seed=6)[0], 1.0))
    if family == "tiny":
        files.append((make().write(tmp_path, "lora", torch.float32)[0], 0.7))
    prompts = ["a <fox> on red", "a zorbo on red", "a cat"]
    tables = [encoder.get_input_embeddings() for encoder in base.text_encoders]
    weights = [copy.deepcopy(table.weight) for table in tables]
    tokenizers = [pipe.tokenizer, getattr(pipe, "tokenizer_2", None)]
    before = [picture(pipe, base, prompt) for prompt in prompts]
    with adapted(pipe, files):
        inside = [picture(pipe, base, prompt) for prompt in prompts]
    assert [torch.equal(a, b) for a, b in zip(before, inside, strict=True)] == [False, False, family != "tiny"]
    after = [picture(pipe, base, prompt) for prompt in prompts]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [encoder.get_input_embeddings() for encoder in base.text_encoders] == tables
    assert all(torch.equal(table.weight, old) for table, old in zip(tables, weights, strict=True))
    assert pipe.tokenizer is tokenizers[0] and getattr(pipe, "tokenizer_2", None) is tokenizers[1]


def test_a_failure_takes_back_what_was_there_before_it(load, tmp_path):
    base = load("tiny")
    pipe, path = base.pipeline(), written(base, tmp_path)[0]
    table, tokenizer = base.text_encoder.get_input_embeddings(), pipe.tokenizer
    with pytest.raises(RequestError, match="it has the word <fox> already"), adapted(pipe, [(path, 1.0)] * 2):
        pass
    assert base.text_encoder.get_input_embeddings() is table and pipe.tokenizer is tokenizer


@pytest.mark.parametrize(
    ("prompt", "named"),
    [("a <fox>", 1), ("a <FOX>, <fox>.", 2), ("a<fox>b", 1), ("a fox", 0), ("zorbo", 1), ("zorbos <zorbo>", 0)],
)
def test_where_prompts_name_a_word(load, prompt, named):
    base = load("tiny")
    known = len(base.tokenizer)
    for token in ("<Fox>", "zorbo"):
        teach(base, drawn(base, 2, token))
    ids = [i for i in base.tokenizer(prompt).input_ids if i >= known]
    assert len(ids) == 2 * named and all(b == a + 1 for a, b in zip(ids[::2], ids[1::2], strict=True))


@pytest.mark.parametrize(
    ("family", "keys", "token"),
    [("tiny", ("emb_params",), "style-7"), ("tiny", ("<s1>",), "<s1>"), ("sdxl", ("clip_l", "clip_g"), "style-7")],
)
def test_files_of_other_programs(load, tuner, tiny_base, tiny_family, tmp_path, family, keys, token):
    base = load(family)
    word = drawn(base, 3)
    path = tmp_path / "style-7.safetensors"
    Artifact(dict(zip(keys, word.vectors, strict=True))).save(path)
    assert Embedding.load(path).word.token == token
    pipe = base.pipeline("ddim")
    before = picture(pipe, base, f"a {token}")
    apply_adapter(pipe, path, 1.0, "word")
    assert not torch.equal(picture(pipe, base, f"a {token}"), before)
    name = tiny_base if family == "tiny" else tiny_family(family)
    told = json.loads(tuner("inspect", path, "--json").stdout)
    assert (told["kind"], told["trigger"], told["vectors"]) == ("textual inversion", token, 3)
    result = tuner("verify", path, "--base", name, "--json")
    assert result.exit_code == 0, result.stdout
    facts = json.loads(result.stdout)
    assert facts["whole"] and facts["kinds"] == ["word"]
    assert {program: one["landed"] for program, one in facts["programs"].items()} == {
        "diffusers": 3, "ComfyUI": 3, "A1111": 3,
    }  # fmt: skip
    assert "3 of 3 vectors" in tuner("verify", path, "--base", name).stdout


def test_one_vector_may_be_flat(load, tmp_path):
    base, path = load("tiny"), tmp_path / "flat.safetensors"
    Artifact({"<s1>": torch.randn(16)}).save(path)
    assert Embedding.load(path).word.vectors[0].shape == (1, 16)
    assert verify(path, base).whole


def test_generate_draws_with_a_word_and_a_lora(tuner, load, make, tiny_base, tmp_path):
    word = written(load("tiny"), tmp_path)[0]
    lora = make().write(tmp_path, "lora", torch.float32)[0]
    flags = ("--base", tiny_base, "--steps", 1, "--quiet", "--out")
    assert tuner("generate", "a <fox>", *flags, tmp_path / "plain").exit_code == 0
    result = tuner("generate", "a <fox>", "--adapter", word, "--adapter", f"{lora}:0.5", *flags, tmp_path / "both")
    assert result.exit_code == 0, result.stderr
    plain, both = ((tmp_path / name / "0000.png").read_bytes() for name in ("plain", "both"))
    assert plain != both


def test_what_does_not_fit_is_said(tuner, load, tiny_base, tiny_family, tmp_path):
    base = load("tiny")
    path = written(base, tmp_path)[0]
    pipe = base.pipeline()
    with pytest.raises(RequestError, match=r"is a token, which has no weight; leave :0.5 out"):
        apply_adapter(pipe, path, 0.5, "word")
    for family, clause in (("sd2", "its vectors are 16 wide"), ("sdxl", "is not for Stable Diffusion XL")):
        result = tuner("generate", "a", "--adapter", path, "--base", tiny_family(family), "--out", tmp_path / "out")
        assert result.exit_code == 2 and clause in result.stderr
    assert tuner("verify", path, "--base", tiny_family("sd2")).exit_code == 1
    three = tmp_path / "three.safetensors"
    Artifact({"a": torch.zeros(1, 16), "b": torch.zeros(1, 16)}).save(three)
    with pytest.raises(RequestError, match="is not a token's file"):
        apply_adapter(pipe, three, 1.0, "word")
    pickle = tmp_path / "fox.pt"
    torch.save({"<fox>": torch.zeros(1, 16)}, pickle)
    result = tuner("generate", "a <fox>", "--adapter", pickle, "--base", tiny_base, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "is a pickle" in result.stderr and "convert it" in result.stderr


def test_zero_vectors_are_found(load, tmp_path):
    base = load("tiny")
    nothing = Embedding.of(base, Word("<fox>", (torch.zeros(2, 16),)), {})
    paths = nothing.write(tmp_path, "fox", torch.float32)
    assert not verify(paths[0], base).whole
    with pytest.raises(RunError, match="its vectors are all zero"):
        nothing.prove(paths, base)


def test_half_precision_and_padded_tables(load, tmp_path):
    """A table may have more rows than its tokenizer has tokens: new words are looked up elsewhere all the same."""
    base = load("tiny")
    encoder = base.text_encoder
    encoder.resize_token_embeddings(len(base.tokenizer) + 8)
    path = written(base, tmp_path)[0]
    vectors = Embedding.load(path).word.vectors[0]
    pipe = base.pipeline()
    encoder.to(torch.bfloat16)
    apply_adapter(pipe, path, 1.0, "word")
    ids = torch.tensor(pipe.tokenizer("<fox>", add_special_tokens=False).input_ids)
    found = encoder.get_input_embeddings()(ids)
    assert found.dtype == torch.bfloat16 and torch.equal(found, vectors.bfloat16())
