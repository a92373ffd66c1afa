"""What pictures are steered by: each condition on pictures made by hand, and how it comes to the batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.config import build
from tuner.data.cache import Cache
from tuner.data.conditions import check_condition, computed
from tuner.data.options import Condition
from tuner.data.source import pictures, with_conditions, with_latents, with_pixels
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.recipe import TrainConfig

WAYS = Condition.__args__


@pytest.fixture(scope="module")
def model(tiny_base) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


@pytest.fixture
def square() -> Image.Image:
    """A white square, rows and columns 8 to 23, on black."""
    picture = Image.new("RGB", (32, 32))
    picture.paste("white", (8, 8, 24, 24))
    return picture


@pytest.fixture
def shapes(tmp_path) -> Path:
    """Pictures of three shapes, in two folders."""
    random = np.random.default_rng(0)
    for name, size in {"one.png": (40, 32), "two.jpg": (32, 64), "inside/three.png": (33, 31)}.items():
        file = tmp_path / "shapes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(file)
    return tmp_path / "shapes"


def source_of(model, images: Path, **options):
    return pictures(build(TrainConfig, {"images": str(images), "batch_size": 1, "caption": "a", **options}), model)


def test_canny_is_scikit_images(square):
    from skimage.feature import canny

    emoji = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((64, 48))
    for picture in (square, emoji):
        found = computed("canny", picture)
        assert found.shape == picture.size[::-1] and set(np.unique(found)) == {0, 255}
        luminance = np.asarray(picture, float) @ [0.299, 0.587, 0.114] / 255
        assert ((found > 0) == canny(luminance, sigma=1.0)).mean() > 0.995  # but for the rounding to whole numbers
    edges = np.argwhere(computed("canny", square) > 0)
    assert len(edges) >= 50
    inside = np.abs(edges - 15.5).max(1)  # how far from the middle: the square's last pixel is at 7.5
    assert inside.min() >= 7 and inside.max() <= 9


def test_soft_edges(square):
    found = computed("soft-edge", square)
    assert found[16, 7] == found[16, 8] == 255 and found[16, 15] == 0 and found[2, 2] == 0
    half = computed("soft-edge", Image.eval(square, lambda value: value // 2))
    assert abs(int(half[16, 8]) - found[16, 8] / 2) <= 1


def test_gray():
    picture = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8))
    assert computed("gray", picture).tolist() == [[76, 150, 29, 9]]


def test_blur(square):
    found = computed("blur", square)[16, :, 0].astype(int)
    assert (np.diff(found[:16]) >= 0).all() and found[0] < 20 and 100 < found[8] < 155 and found[16] > 235
    plain = Image.new("RGB", (48, 32), (10, 200, 30))
    assert (computed("blur", plain) == (10, 200, 30)).all()


def test_colour_grid():
    values = np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    found = computed("colour-grid", Image.fromarray(values)).astype(int)
    assert found.shape == values.shape
    cells = values.reshape(8, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(found[::2, ::2] - cells).max() <= 1 and (found[::2] == found[1::2]).all()


@pytest.mark.parametrize("how", WAYS)
def test_conditions_come_with_their_pictures(model, shapes, how, tmp_path):
    """The same as of the picture that trains, in its size, whatever batch it is in; once made, they are kept."""
    kept = {"cache": str(tmp_path / "cache")}
    source = with_latents(with_conditions(source_of(model, shapes, **kept), how, str(shapes)), model)
    plain = with_pixels(source_of(model, shapes, **kept))
    assert plain.pixels is not None and source.controls is not None
    for number, pixels in enumerate(plain.pixels):
        wanted = computed(how, Image.fromarray(pixels.permute(1, 2, 0).numpy())).copy()
        mine = source.controls[number]
        assert mine.dtype == torch.uint8 and len(mine) == (1 if wanted.ndim == 2 else 3)
        assert torch.equal(mine.squeeze(0) if wanted.ndim == 2 else mine.permute(1, 2, 0), torch.from_numpy(wanted))
        batch = source.batch(number, [0])
        assert batch.control is not None and batch.sizes is not None
        assert batch.control.shape == (1, 3, *batch.sizes[0, 4:].tolist())
        assert batch.control.min() >= 0 and batch.control.max() <= 1
    entries = list((tmp_path / "cache" / "conditions").rglob("*.safetensors"))
    assert len(entries) == 3
    written = {file: file.stat().st_mtime_ns for file in entries}
    again = with_conditions(source_of(model, shapes, **kept), how, str(shapes)).controls
    assert again is not None and all(torch.equal(a, b) for a, b in zip(again, source.controls, strict=True))
    assert written == {file: file.stat().st_mtime_ns for file in entries}


def test_a_folder_of_conditions_is_cropped_as_the_pictures_are(model, shapes, tmp_path):
    """Conditions that are the pictures themselves, under other suffixes, come out as the pictures do."""
    for file in shapes.rglob("*.*"):
        given = tmp_path / "given" / file.relative_to(shapes).with_suffix(".BMP")
        given.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).save(given)
    source = with_conditions(source_of(model, shapes), str(tmp_path / "given"), str(shapes))
    for step in range(6):
        batch = with_pixels(source).batch(step, [0])
        torch.testing.assert_close(batch.control * 2 - 1, batch.pixels)


def test_conditions_of_bare_names_and_of_pictures_left_out(model, shapes, tmp_path):
    (shapes / "broken.png").write_bytes((shapes / "one.png").read_bytes()[:-900])
    source = with_latents(with_conditions(source_of(model, shapes), "gray", str(shapes)), model)
    assert len(source) == 3 == len(source.controls) and "broken.png" in source.skipped[0]
    (shapes / "broken.png").unlink()
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in shapes.rglob("*.*"):
        Image.open(file).save(flat / f"{file.stem}.png")
    assert len(with_conditions(source_of(model, shapes), str(flat), str(shapes)).controls) == 3


def test_wrong_conditions(model, shapes, tmp_path):
    def refused(folder: Path) -> str:
        with pytest.raises(RequestError) as error:
            with_conditions(source_of(model, shapes), str(folder), str(shapes))
        return str(error.value)

    given = tmp_path / "given"
    (given / "inside").mkdir(parents=True)
    assert refused(given).endswith("given has no picture for one.png nor 2 others; name each as its picture is.")
    Image.new("RGB", (40, 32)).save(given / "one.png")
    Image.new("RGB", (33, 31)).save(given / "inside" / "three.png")
    assert refused(given).endswith("given has no picture for two.jpg; name each as its picture is.")
    Image.new("RGB", (64, 32)).save(given / "two.png")
    assert refused(given).endswith("two.png has 64 x 32 pixels, its picture 32 x 64; the two must have the same size.")
    (given / "two.png").write_text("no picture")
    assert "two.png cannot be read: it is no picture of a kind known here" in refused(given)
    with pytest.raises(RequestError, match=r"--condition cany: there is no such condition .*; did you mean canny\?"):
        check_condition("cany")
    with pytest.raises(RequestError, match="name one of canny, soft-edge, gray, blur, colour-grid, a folder of p"):
        check_condition(str(tmp_path / "none"))
    check_condition(str(given))
    check_condition("column:depth")


def test_pictures_without_names(model, images, tmp_path):
    import datasets

    rows = {"image": [Image.new("RGB", (32, 32))] * 2, "text": ["a", "b"]}
    datasets.Dataset.from_dict(rows, datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
                               ).save_to_disk(str(tmp_path / "saved"))  # fmt: skip
    with pytest.raises(
        RequestError, match="have no names to go by; name a column of the data set, --condition column:"
    ):
        with_conditions(source_of(model, tmp_path / "saved"), images, str(tmp_path / "saved"))
    assert Cache().get("conditions", "none") is None


SIZES = {"one": (40, 32), "two": (32, 64), "three": (33, 31)}


def noise(number: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def tabled(root: Path, kind: str, at: str = ".", column: str = "depth_file_name") -> Path:
    """Pictures and, in another folder, their conditions, as a table of imagefolder says which is whose."""
    import datasets

    home, table = root / at, []
    for number, (name, size) in enumerate(SIZES.items()):
        for file, seed in ((home / f"{name}.png", number), (home / "conditions" / f"{number}.png", 10 + number)):
            file.parent.mkdir(parents=True, exist_ok=True)
            noise(seed, size).save(file)
        table.append({"file_name": f"{name}.png", column: f"conditions/{number}.png", "text": name, "other": "x"})
    frame = datasets.Dataset.from_list(table)
    file = str(home / f"metadata.{kind}")
    {"jsonl": frame.to_json, "csv": frame.to_csv, "parquet": frame.to_parquet}[kind](file)
    return root


def saved(folder: Path, lacks: int | None = None) -> Path:
    """The same as `datasets` saves it, with pictures in both columns."""
    import datasets

    depths = [None if number == lacks else noise(10 + number, size) for number, size in enumerate(SIZES.values())]
    rows = {"image": [noise(n, size) for n, size in enumerate(SIZES.values())], "text": [*SIZES], "depth": depths}
    kinds = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), depth=datasets.Image())
    datasets.Dataset.from_dict(rows, kinds).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("layout", ["jsonl", "csv", "parquet", "nested", "plain", "saved"])
@pytest.mark.parametrize("asked", ["column:depth", "column:depth_file_name"])
def test_a_column_of_the_data_set(model, tmp_path, layout, asked):
    """Whatever holds it, each picture has its own row's condition, cropped as it is."""
    folder = tmp_path / "set"
    if layout == "saved":
        saved(folder)
    else:
        kind, at = ("jsonl", "inside") if layout == "nested" else (layout.replace("plain", "jsonl"), ".")
        tabled(folder, kind, at, "depth" if layout == "plain" else "depth_file_name")
    source = with_pixels(with_conditions(source_of(model, folder), asked, str(folder)))
    assert source.captions and sorted(source.captions) == sorted(SIZES)
    assert not any("not in the metadata" in note for note in source.notes)
    for caption, pixels, control in zip(source.captions, source.pixels, source.controls, strict=True):
        number = [*SIZES].index(caption)
        plain = tmp_path / f"{caption}.png"
        noise(10 + number, SIZES[caption]).save(plain)
        assert pixels.shape == control.shape
        wanted = source_of(model, plain_folder(tmp_path / caption, plain)).pixels[0]
        assert torch.equal(control, wanted)


def plain_folder(folder: Path, file: Path) -> Path:
    folder.mkdir()
    file.rename(folder / file.name)
    return folder


def test_wrong_columns(model, images, tmp_path):
    def refused(folder: Path, condition: str = "column:depth") -> str:
        with pytest.raises(RequestError) as error:
            with_conditions(source_of(model, folder), condition, str(folder))
        return str(error.value)

    folder = tabled(tmp_path / "set", "jsonl")
    said = refused(folder, "column:depht")
    assert said == f"--condition column:depht: --images {folder} has no such column; its columns with pictures: depth."
    assert refused(Path(images)).endswith("has no such column; no other column has pictures.")
    noise(0, (64, 32)).save(folder / "conditions" / "1.png")
    assert refused(folder).endswith("1.png has 64 x 32 pixels, its picture 32 x 64; the two must have the same size.")
    (folder / "conditions" / "1.png").write_text("no picture")
    assert "column:depth: " in refused(folder) and "1.png cannot be read: it is no picture of a kind" in refused(folder)
    (folder / "conditions" / "1.png").unlink()
    assert "1.png cannot be read: there is no such file." in refused(folder)
    (folder / "conditions" / "1.png").symlink_to(Path(images) / "red.png")
    assert refused(folder).endswith("two.png names no picture in the folder.")
    table = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for wrong in ("../pictures/red.png", "", None, 7, "https://example.org/red.png"):
        table.write_text("\n".join(json.dumps(row | {"depth_file_name": wrong} if n == 1 else row) for n, row in
                                   enumerate(rows)))  # fmt: skip
        assert refused(folder).endswith("two.png names no picture in the folder."), wrong
        assert len(source_of(model, folder)) == 3  # who does not ask for the column, does not mind
    assert refused(saved(tmp_path / "saved", lacks=2)).endswith(
        "row 2, depth cannot be read: its row holds no picture."
    )
