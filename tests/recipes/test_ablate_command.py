"""`tuner ablate` as a command: what its files say, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tuner.adapters.artifact import Artifact
from tuner.adapters.embeddings import Embedding
from tuner.config import read_toml
from tuner.models.latent_diffusion import LatentDiffusion

FAST = ("--steps", 2, "--samples", 0, "--anchor-images", 1, "--quiet", "--force")


def test_the_files_say_what_they_take_out(tuner, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = tuner("ablate", "--base", tiny_base, "--target", "Teddy  Bear", "--anchor", "Dog", *FAST)
    assert done.exit_code == 0, done.stderr
    kohya = Artifact.load(Path("runs/no-teddy-bear/no-teddy-bear.safetensors"))
    whole = [name for name in kohya.tensors if name.endswith(".diff")]
    assert whole and all("attn2_to_k" in name or "attn2_to_v" in name for name in whole)
    assert all(".lora_" in name or name.endswith(".alpha") for name in kohya.tensors.keys() - {*whole})
    note = json.loads(kohya.metadata["tuner.erases"])
    assert note == {"kind": "instance", "concepts": [["teddy bear", "dog"]]}
    assert kohya.metadata["modelspec.description"] == "takes out: teddy bear -> dog"
    plain = Artifact.load(Path("runs/no-teddy-bear/diffusers/pytorch_lora_weights.safetensors"))
    assert all("lora_" in name for name in plain.tensors)
    baked = tuner("merge", "runs/no-teddy-bear/no-teddy-bear.safetensors", "--into", tiny_base, "--out", "baked")
    assert baked.exit_code == 0, baked.stderr
    before, after = (LatentDiffusion.load(path).unet.state_dict() for path in (tiny_base, "baked"))
    name = next(name for name in before if name.endswith("attn2.to_k.weight"))
    key = next(key for key in kohya.tensors if key == f"lora_unet_{name[:-7].replace('.', '_')}.diff")
    assert torch.allclose(after[name] - before[name], kohya.tensors[key], atol=1e-6)


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_the_solution_on_a_quantised_base_is_nearly_the_same(tuner, tiny_base, tmp_path, how):
    def solved(*words):
        out = tmp_path / "-".join(("run", *words))
        done = tuner("ablate", "--base", tiny_base, "--target", "teddy bear", "--anchor", "dog", "--method", "uce",
                     "--samples", 0, "--anchor-images", 1, "--quiet", "--force", *words, "--out", out)  # fmt: skip
        assert done.exit_code == 0, done.stderr
        return Artifact.load(out / "no-teddy-bear.safetensors").tensors

    whole, packed = solved(), solved("--quantize", how)
    for name, tensor in whole.items():
        assert (packed[name] - tensor).norm() < 0.2 * tensor.norm()


def test_words_of_several_tokens_become_words_of_their_own(tuner, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = tuner("ablate", "--base", tiny_base, "--target", "teddy bear", "--anchor", "dog", "--train", "embedding",
                 "--learning-rate", 0.05, "--out", "run", *FAST)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    word = Embedding.load(Path("run/no-teddy-bear.safetensors")).word
    assert word.token == "teddy bear" and len(word) == 2
    pictures = {}
    for text in ("a teddy bear", "a bear"):
        for more in ((), ("--adapter", "run/no-teddy-bear.safetensors")):
            out = Path(f"out-{len(pictures)}")
            done = tuner("generate", text, "--base", tiny_base, "--steps", 2, "--out", out, "--quiet", *more)
            assert done.exit_code == 0, done.stderr
            pictures[text, bool(more)] = Image.open(out / "0000.png").tobytes()
    assert pictures["a teddy bear", True] != pictures["a teddy bear", False]
    assert pictures["a bear", True] == pictures["a bear", False]


def test_in_half_precision_the_base_is_asked_what_it_knows(tuner, tiny_base, tmp_path):
    """Before the loop, in which alone the two precisions would go together by themselves."""
    done = tuner("ablate", "--base", tiny_base, "--target", "teddy bear", "--anchor", "dog", "--precision", "bf16",
                 *FAST[:-1], "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0 or "does not seem to know" in done.stderr, done.stderr


def test_several_targets_and_prompts_from_a_file(tuner, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a dog on a red background\n\na photo of a {}\nnothing of use\n")
    done = tuner("ablate", "--base", tiny_base, "--target", "cat", "--target", "teddy bear", "--anchor", "dog",
                 "--prompts", "prompts.txt", "--out", "run", *FAST)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    note = Artifact.load(Path("run/no-cat.safetensors")).metadata["tuner.erases"]
    assert json.loads(note)["concepts"] == [["cat", "dog"], ["teddy bear", "dog"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--target is empty"),
        (("--target", "cat"), "--anchor is empty"),
        (("--target", " ", "--anchor", "dog"), "--target is empty"),
        (("--target", "Cat", "--anchor", "cat"), 'both "cat"'),
        (("--target", "cat", "--anchor", "dog", "--anchor", "bear"), "1 of --target and 2 of --anchor"),
        (("--target", "cat", "--target", "CAT", "--anchor", "dog"), "named twice"),
        (("--target", "cat", "--anchor", "dog", "--prompts", "none.txt"), "none.txt is no text file"),
        (("--target", "cat", "--anchor", "dog", "--prompts", "useless.txt"), "has no line with {}"),
        (("--target", "cat", "--anchor", "dog", "--images", "."), "leave it out"),
        (("--target", "cat", "--target", "dog", "--anchor", "dog", "--anchor", "bear"), '"dog" is to be gone itself'),
        (("--target", "cat", "--anchor", "dog", "--prompts", "twice.txt"), "has {} more than once"),
        (("--target", "cat", "--anchor", "dog", "--prompts", "long.txt"), "are too many for a prompt"),
        (("--target", "cat", "--target", f"a dog and {'a red dog and ' * 40}", "--anchor", "bear"), '"a dog and'),
        (("--target", "cat", "--anchor", "dog", "--method", "esd", "--snr-gamma", 5), "--snr-gamma does nothing"),
        (("--target", "cat", "--anchor", "dog", "--method", "model", "--attacks", 1), "--attacks does"),
        (("--target", "cat", "--anchor", "dog", "--train", "unet", "--rank", 4), "--rank does nothing"),
        (("--target", "cat", "--anchor", "dog", "--train", "embedding", "--attacks", 1), "--attacks does"),
        (("--target", "cat", "--anchor", "dog", "--caption-dropout", 0.5), "--caption-dropout is for a folder"),
        (("--target", "cat", "--anchor", "dog", "--resolution", 64), "--resolution is for a folder"),
        (("--target", "cat", "--anchor", "dog", "--trigger", "sks"), "--trigger is for a folder"),
        (("--target", "cat", "--anchor", "dog", "--method", "esdx"), "--method must be one of"),
        (("--target", "cat", "--anchor", "dog", "--method", "model", "--retain", "a bear"), "--retain does nothing"),
        (("--target", "cat", "--anchor", "dog", "--method", "esd", "--regularise", 2), "--regularise does nothing"),
        (("--target", "cat", "--anchor", "dog", "--method", "uce", "--train", "embedding"), "leave out --train"),
        (("--target", "cat", "--anchor", "dog", "--config", "list.toml"), "method"),
        (("--target", "cat", "--anchor", "dog", "--config", "several.toml"), "train"),
        (("--target", "cat", "--anchor", "dog", "--train", "embedding"), "has the word cat already"),
    ],
)
def test_wrong_requests(tuner, tiny_base, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    Path("useless.txt").write_text("a bear\n\n")
    Path("twice.txt").write_text("a photo of a {} and a {}\n")
    Path("long.txt").write_text(f"{'a red dog and ' * 40} a {{}}\n")
    Path("list.toml").write_text('method = ["model"]\n')
    Path("several.toml").write_text('train = ["lora"]\n')
    done = tuner("ablate", "--base", tiny_base, *words, *FAST)
    assert done.exit_code == 2 and told in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_what_a_base_brings_along_gives_way_to_what_is_trained(tuner, tiny_base, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "training.toml").write_text("[ablate]\nrank = 3\nattacks = 1\nregularise = 2.0\n")
    ways = {"lora": (3, 1, 2.0), "unet": (16, 1, 2.0), "embedding": (16, None, 2.0)}
    for train, wanted in ways.items():
        words = ("--target", "teddy bear", "--anchor", "dog", "--train", train)
        done = tuner("ablate", "--base", base, *words, *FAST, "--out", tmp_path / train)
        assert done.exit_code == 0, done.stderr
        values = read_toml(tmp_path / train / "config.toml")
        assert (values["rank"], values.get("attacks"), values["regularise"]) == wanted


def test_what_the_base_does_not_know_is_refused(tuner, tmp_path, monkeypatch):
    """On the bundled base: a subject that was held out, and made-up words; one that it knows is taken."""
    monkeypatch.chdir(tmp_path)
    words = ("--steps", 0, "--method", "uce", "--samples", 0, "--quiet", "--anchor-images", 1, "--config", "few.toml")
    Path("few.toml").write_text('retain = ["a dog"]\n')
    Path("one.txt").write_text("a {}\n")
    for flag, target, anchor in (("target", "fox", "cat"), ("target", "blorp", "cat"), ("anchor", "pizza", "blorp")):
        done = tuner("ablate", "--target", target, "--anchor", anchor, *words, "--prompts", "one.txt")
        unknown = target if flag == "target" else anchor
        assert done.exit_code == 2 and f'--{flag} "{unknown}": the base does not seem to know it' in done.stderr
        assert not Path("runs").exists()
    done = tuner("ablate", "--target", "Grumpy Cat", "--anchor", "cat", *words, "--prompts", "one.txt")
    assert done.exit_code == 0, done.stderr
