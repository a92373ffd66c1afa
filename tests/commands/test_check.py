"""`tuner check`: every defect is named, with its remedy, and it never says other than what training does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
from PIL import Image

from tuner.commands.check_page import page
from tuner.data.glance import Reader, glance
from tuner.data.options import FolderOptions
from tuner.data.survey import survey
from tuner.data.twins import Look, nearly_equal
from tuner.models.latent_diffusion import LatentDiffusion

LONG = "a photo of a cat " + "and another cat " * 9


def photo(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


@pytest.fixture
def messy(tmp_path) -> Path:
    """One of each."""
    folder = tmp_path / "messy"
    (folder / "10_sks cat").mkdir(parents=True)
    for name in ("astronaut.png", "coffee.png", "rocket.jpg"):
        photo(name).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"a picture of {name[:-4]}")
    photo("chelsea.png").save(folder / "10_sks cat" / "kitty.PNG")
    photo("coffee.png").save(folder / "strong.jpg", quality=50)
    (folder / "strong.txt").write_text("strong coffee")
    (folder / "twin.jpg").write_bytes((folder / "rocket.jpg").read_bytes())
    (folder / "twin.txt").write_text(LONG)
    photo("motorcycle_left.png").resize((40, 30)).save(folder / "small.png")
    (folder / "small.txt").write_text(" \n")
    photo("motorcycle_right.png").resize((900, 150)).save(folder / "banner.png")
    photo("brick.png").convert("L").save(folder / "brick.mask.png")
    frames = [photo("grass.png").resize((80, 80)), photo("gravel.png").resize((80, 80))]
    frames[0].save(folder / "spin.gif", save_all=True, append_images=frames[1:])
    (folder / "torn.jpg").write_bytes((folder / "rocket.jpg").read_bytes()[:9000])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "zero.png").write_bytes(b"")
    (folder / "orphan.txt").write_text("where is my picture")
    (folder / "IMG_0001.HEIC").write_bytes(b"x")
    return folder


DEFECTS = {
    "left out": ("torn.jpg", "dot.png", "zero.png"),
    "enlarged": ("small.png",),
    "extreme shape": ("banner.png",),
    "animated": ("spin.gif",),
    "duplicates": ("rocket.jpg = ", "twin.jpg"),
    "near duplicates": ("coffee.png = ", "strong.jpg"),
    "empty caption": ("small.png",),
    "missing caption": ("banner.png", "spin.gif", "kitty.PNG"),
    "overlong caption": ("twin.jpg",),
    "orphan captions": ("orphan.txt",),
    "unread kinds": ("IMG_0001.HEIC",),
    "masks": ("brick.mask.png",),
    "repeats": ("10_sks cat (10 times)",),
}


def test_every_defect_is_named(tuner, messy):
    result = tuner("check", messy, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["usable"] and told["resolution"] == 64 and len(told["pictures"]) == 9
    found = {}
    for finding in told["findings"]:
        found.setdefault(finding["kind"], []).extend(finding["names"])
        assert finding["remedy"] or finding["grade"] == "note"
    assert found.keys() == DEFECTS.keys()
    for kind, names in DEFECTS.items():
        assert all(any(name in text for text in found[kind]) for name in names), (kind, found[kind])
    visits = sum(bucket["visits"] for bucket in told["buckets"])
    assert visits == sum(picture["visits"] for picture in told["pictures"]) == 18


@pytest.mark.parametrize("words", [[], ["--quiet"]])
def test_the_page_names_them_too(tuner, messy, words):
    result = tuner("check", messy, *words)
    assert result.exit_code == 0
    for kind, names in DEFECTS.items():
        assert all(name in result.stdout for name in names), kind
    assert "Usable." in result.stdout and "\x1b" not in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())


@pytest.mark.parametrize("width", [80, 130])
def test_on_a_terminal_no_line_is_too_long(messy, width, capsys):
    from rich.console import Console

    found = survey(FolderOptions(images=str(messy)), glance("emoji"))
    console = Console(force_terminal=True, width=width, highlight=False)
    page(found, "emoji", 64, console)
    text = capsys.readouterr().out
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= min(width, 110) and "\x1b[" in text
    assert "torn.jpg" in plain and "━" in plain


def test_what_is_cut_is_what_the_base_does_not_read(tiny_base):
    model = LatentDiffusion.load("emoji")
    reader = glance("emoji").reader
    texts = [LONG, LONG.upper() + "  ÄÖ 猫!", "short", "", "cat " * 22, "cat " * 23]
    for one in (reader, Reader.of(model.tokenizer)):
        cut = one.cut(texts)
        assert "short" not in cut and "" not in cut and "cat " * 22 not in cut and "cat " * 23 in cut
        for text, end in cut.items():
            assert text.endswith(end) and end
            kept = text[: len(text) - len(end)]
            whole = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
            read = model._tokens(model.tokenizer, [text])[0].tolist()
            assert read[:-1] == whole.input_ids[:23] and whole.offset_mapping[23][0] == len(kept)


@pytest.mark.parametrize("base", ["emoji", "tiny"])
def test_a_glance_sees_what_loading_sees(base, tiny_base):
    base = tiny_base if base == "tiny" else base
    seen, loaded = glance(base), LatentDiffusion.load(base)
    assert (seen.resolution, seen.unit) == (loaded.resolution, loaded.unit)
    assert seen.reader.length == loaded.tokenizer.model_max_length


def test_a_tokenizer_of_old_files(tiny_base, tmp_path):
    import shutil

    shutil.copytree(tiny_base, tmp_path / "old")
    (tmp_path / "old" / "tokenizer" / "tokenizer.json").unlink()
    new, old = glance(tiny_base).reader, glance(str(tmp_path / "old")).reader
    assert new.cut([LONG]) == old.cut([LONG]) != {}


def test_near_duplicates_are_copies_and_not_others(tmp_path):
    names = sorted(p.name for p in (Path(skimage.__file__).parent / "data").iterdir() if p.suffix in (".png", ".jpg"))
    photos = [photo(name) for name in names if not name.startswith(("chess", "micro", "phantom"))]
    looks = [Look.of(one) for one in photos]
    assert len(looks) > 15 and nearly_equal(looks) == []
    for number, one in enumerate(photos):
        one.save(tmp_path / "again.jpg", quality=60)
        small = one.resize((round(one.width * 0.7), round(one.height * 0.7)), Image.Resampling.LANCZOS)
        for copy in (Image.open(tmp_path / "again.jpg").convert("RGB"), small):
            assert nearly_equal([*looks, Look.of(copy)]) == [[number, len(looks)]]


def test_what_cannot_be_trained_on(tuner, images, tiny_base):
    (Path(images) / "red.txt").write_bytes(b"\xff")
    result = tuner("check", images, "--base", tiny_base)
    trained = tuner("lora", "--images", images, "--base", tiny_base, "--dry-run", "--steps", 1)
    assert result.exit_code == 1 and trained.exit_code == 2
    assert "Not usable yet." in result.stdout
    assert trained.stderr.removeprefix("Error: ").strip() in result.stdout
    facts = json.loads(tuner("check", images, "--base", tiny_base, "--json").stdout)
    assert not facts["usable"] and "red.txt" in facts["obstacle"]


def test_too_many_broken_pictures(tuner, images, tiny_base):
    for number in range(4):
        (Path(images) / f"{number}.png").write_bytes(b"x")
    result = tuner("check", images, "--base", tiny_base)
    assert result.exit_code == 1 and "4 of 8 pictures cannot be used" in result.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "takes one folder"),
        (["a", "b"], "takes one folder"),
        (["nowhere"], "no such folder"),
        (["."], "no picture"),
        ([".", "--base", "nothing"], "--base nothing"),
        ([".", "--resolution", "33"], "--resolution 33"),
    ],
)
def test_wrong_requests(tuner, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    result = tuner("check", *words)
    assert result.exit_code == 2 and sentence in result.stderr and not result.stdout


def test_the_names_of_a_folder_are_inert(tuner, tmp_path, picture_of_a_bear):
    folder = tmp_path / "a $(touch boom) ; `x` [red] 😀"
    folder.mkdir()
    picture_of_a_bear.save(os.path.join(folder, "line\nbreak [bold]\x1b[31m.png"))
    result = tuner("check", folder)
    assert result.exit_code == 0 and "\x1b" not in result.stdout and "line\\nbreak [bold]" in result.stdout


@pytest.fixture
def picture_of_a_bear():
    return photo("astronaut.png").resize((60, 60))


def test_it_needs_no_torch(images):
    probe = (
        "import sys\nfrom tuner.commands import main\n"
        f"sys.argv = ['tuner', 'check', {images!r}, '--json']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'datasets'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.strip() == "[]", done.stderr
