"""Folders as people have them: the same pictures and captions give the same examples in every layout."""

import json
import os
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pytest

from tuner.data.audit import audit
from tuner.data.findings import findings
from tuner.data.folder import read_folder
from tuner.data.options import FolderOptions
from tuner.data.pictures import decode
from tuner.data.source import encoded, pictures
from tuner.errors import RequestError

CAPTIONS = {"a": "a red cat", "b": "a dog, sitting", "c": "two birds", "d": ""}


def seen(folder, **options):
    """Captions by the file's stem, and the audit."""
    found = audit(FolderOptions(images=str(folder), **options), 32, 8)
    return {Path(p.name).stem: text for p, text in zip(found.pictures, found.captions(), strict=True)}, found


def kinds(found):
    return {point.kind for point in findings(found)}


@pytest.fixture
def four(tmp_path, picture):
    """Put the four pictures into a folder, under a name for each."""

    def put(folder, name=lambda stem: f"{stem}.png"):
        for number, stem in enumerate(CAPTIONS):
            file = tmp_path / folder / name(stem)
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(number, (40 + 10 * number, 40)).save(file, "PNG")
        return tmp_path / folder

    return put


def rows(names=lambda stem: f"{stem}.png", column="text"):
    return [{"file_name": names(stem), column: text} for stem, text in CAPTIONS.items()]


def tabled(folder, kind, table, at="."):
    frame = datasets.Dataset.from_list(table)
    file = folder / at / f"metadata.{kind}"
    {"jsonl": frame.to_json, "csv": frame.to_csv, "parquet": frame.to_parquet}[kind](str(file))
    return folder


@pytest.mark.parametrize("suffix", ["txt", "caption", "TXT", "png.txt"])
def test_captions_beside_the_pictures(four, suffix):
    folder = four("flat")
    for stem, text in CAPTIONS.items():
        (folder / f"{stem}.{suffix}").write_text(text)
    assert seen(folder)[0] == CAPTIONS


def test_captions_as_editors_write_them(four):
    folder = four("flat", lambda stem: f"{stem}.PNG")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfa red cat\r\n")
    (folder / "b.txt").write_bytes(b"a dog,\r\n  sitting\r\n\r\n")
    (folder / "c.txt").write_text("two birds\n\n")
    (folder / "d.txt").write_text("\n")
    captions, found = seen(folder)
    assert captions == CAPTIONS
    assert "empty caption" in kinds(found) and "missing caption" not in kinds(found)


def test_accents_composed_and_taken_apart(tmp_path, picture):
    name = "café à la crème"
    picture(1).save(tmp_path / (unicodedata.normalize("NFD", name) + ".png"))
    (tmp_path / (unicodedata.normalize("NFC", name) + ".txt")).write_text("coffee")
    assert set(seen(tmp_path)[0].values()) == {"coffee"}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_metadata(four, kind, column):
    assert seen(tabled(four("listed"), kind, rows(column=column), "."))[0] == CAPTIONS


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_in_a_folder_of_the_split(four, kind):
    folder = four("splits", lambda stem: f"train/{stem}.png")
    four("splits", lambda stem: f"test/no {stem}.png")
    captions, found = seen(tabled(folder, kind, rows(), "train"))
    assert captions == CAPTIONS and "left aside" in kinds(found)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_what_is_read_is_what_datasets_reads(four, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    table = [row for row in rows(lambda stem: f"in/{stem}.png") if row["text"]]
    folder = tabled(four("listed", lambda stem: f"in/{stem}.png"), kind, table)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "hf"))
    ours = read_folder(folder).examples
    assert len(ours) == len(theirs) == 3
    for example, row in zip(ours, theirs, strict=True):
        assert example.caption == row["text"]
        mine = np.asarray(decode(example.file.contents("it"), "it"))
        assert np.array_equal(mine, np.asarray(row["image"].convert("RGB")))


def test_folders_of_classes_have_no_captions(four):
    folder = four("classes", lambda stem: f"{'cats' if stem < 'c' else 'dogs'}/{stem}.png")
    captions, found = seen(folder)
    assert captions == dict.fromkeys(CAPTIONS, "") and "missing caption" in kinds(found)


def test_kohya(four):
    folder = four(
        "kohya", lambda stem: {"a": "10_sks cat", "b": "10_sks cat", "c": "3_dog", "d": "0_not"}[stem] + f"/{stem}.png"
    )
    (folder / "10_sks cat" / "a.txt").write_text("a red cat")
    captions, found = seen(folder, caption="never")
    assert captions == {"a": "a red cat", "b": "sks cat", "c": "dog"}
    assert [p.example.repeats for p in found.pictures] == [10, 10, 3]
    assert "repeats" in kinds(found)


def test_years_are_no_repeats(four):
    assert {p.example.repeats for p in seen(four("years", lambda stem: f"2023_rome/{stem}.png"))[1].pictures} == {1}


def test_repeats_are_visits(four, model, options):
    folder = four("kohya", lambda stem: f"{3 if stem < 'c' else 1}_thing/{stem}.png")
    source = pictures(options(folder, buckets=False), model)
    paid = [caption for step in range(8) for caption in source.batch(step, range(2)).captions]
    assert len(source) == 4 and len(source.visits) == 8 and paid == ["thing"] * 16


def test_noise_is_no_picture(four, tmp_path, picture):
    folder = four("flat")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", ".hidden.png", "README.txt", "notes.md"):
        (folder / name).write_bytes(b"\0\1")
    for inner in (".thumbnails", "thumbnails", "__MACOSX", "@eaDir"):
        (folder / inner).mkdir()
        picture(9).save(folder / inner / "a.png")
    captions, found = seen(folder)
    assert captions == dict.fromkeys(CAPTIONS, "")
    assert kinds(found) == {"missing caption", "left aside"}


def test_masks_are_no_pictures(four, picture):
    folder = four("masks")
    for name in ("a.mask.png", "b-masklabel.png", "c.MASK.PNG"):
        picture(7).convert("L").save(folder / name, "PNG")
    captions, found = seen(folder)
    assert captions.keys() == CAPTIONS.keys() and len(found.listing.masks) == 3 and "masks" in kinds(found)


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "in/../../out.png", "..\\out.png", "C:\\out.png"])
def test_metadata_may_not_leave_the_folder(four, picture, name, model, options, tmp_path):
    folder = four("listed")
    picture(5).save(tmp_path / "out.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png"}) + "\n" + json.dumps({"file_name": name}))
    with pytest.raises(RequestError, match=r"metadata\.jsonl, line 2: .* outside the folder"):
        pictures(options(folder), model)


@pytest.mark.parametrize("line", ['{"text": "no name"}', "not json", "[1]", '{"file_name": 3}'])
def test_metadata_that_cannot_be_used(four, line, model, options):
    folder = four("listed")
    (folder / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(RequestError, match="line 1"):
        pictures(options(folder), model)


@pytest.mark.parametrize(
    ("kind", "data"), [("csv", b"name,text\na.png,x\n"), ("csv", b""), ("parquet", b"PAR1"), ("jsonl", b"\xff")]
)
def test_tables_that_cannot_be_read(four, kind, data, model, options):
    folder = four("listed")
    (folder / f"metadata.{kind}").write_bytes(data)
    with pytest.raises(RequestError, match=rf"metadata\.{kind}"):
        pictures(options(folder), model)


def test_metadata_and_files_that_do_not_agree(four):
    folder = four("listed")
    lines = [
        {"file_name": "a.png", "text": None},
        {"file_name": "gone.png", "text": "x"},
        {"file_name": "b.png", "text": 7},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    captions, found = seen(folder)
    assert captions == {"a": "", "b": "7"}
    assert "gone.png cannot be read: there is no such file" in found.left_out[0]
    assert [Path(name).name for name in found.listing.unlisted] == ["c.png", "d.png"]


def test_links(four, tmp_path, picture):
    folder = four("links")
    (tmp_path / "away").mkdir()
    picture(8).save(tmp_path / "away" / "e.png")
    (folder / "inside.png").symlink_to("a.png")
    (folder / "outside.png").symlink_to(tmp_path / "away" / "e.png")
    (folder / "more").symlink_to(tmp_path / "away")
    (folder / "round").symlink_to(folder)
    (folder / "itself.png").symlink_to("itself.png")
    captions, found = seen(folder)
    assert captions.keys() == {*CAPTIONS, "inside"}
    assert sorted(Path(s.split(" ")[0]).name for s in found.left_out) == ["itself.png", "more", "outside.png"]
    captions, found = seen(folder, follow_links=True)
    assert captions.keys() == {*CAPTIONS, "inside", "outside", "e"}


def test_a_folder_that_is_itself_a_link(four, tmp_path):
    (tmp_path / "link").symlink_to(four("flat"))
    assert seen(tmp_path / "link")[0].keys() == CAPTIONS.keys()


def test_a_pipe_is_left_out_without_waiting(four):
    folder = four("pipes")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "a.txt")
    captions, found = seen(folder)
    assert captions == dict.fromkeys(CAPTIONS, "") and "pipe.png" in found.left_out[0]


def test_captions_that_are_not_utf8_are_all_named_and_stop(four, model, options):
    folder = four("flat")
    (folder / "a.txt").write_bytes(b"a caf\xe9")
    (folder / "b.txt").write_bytes("ein Hund".encode("utf-16"))
    _, found = seen(folder)
    assert len(found.listing.refused) == 2 and "byte 0" in found.listing.refused[1]
    with pytest.raises(RequestError, match=r"a\.txt is not UTF-8 \(byte 5\)"):
        pictures(options(folder), model)


def test_captions_without_a_picture_and_kinds_that_are_not_read(four):
    folder = four("flat")
    for name in ("a.txt", "zebra.txt", "photo.heic"):
        (folder / name).write_text("x")
    found = seen(folder)[1]
    assert [Path(n).name for n in found.listing.orphans] == ["zebra.txt"]
    assert [Path(n).name for n in found.listing.unread] == ["photo.heic"]


def test_names_of_every_kind(tmp_path, picture):
    names = ["with space", "猫 😀", "semi;colon $(touch x) `y` & 'q'", "line\nbreak", "-rf", "per%cent", "a.b.c"]
    for number, name in enumerate(names):
        picture(number).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"number {number}")
    picture(99).save(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), "PNG")
    found = audit(FolderOptions(images=str(tmp_path)), 32, 8)
    assert sorted(filter(None, found.captions())) == [f"number {i}" for i in range(len(names))]
    assert len(found.pictures) == len(names) + 1 and not found.left_out
    assert all(p.name.isprintable() for p in found.pictures)


def test_saved_data_sets(four, model, options, tmp_path):
    folder = tabled(four("listed"), "jsonl", rows())
    table = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "hf"))
    table.save_to_disk(str(tmp_path / "arrow"))
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "dict"))
    plain = [pictures(options(folder), model), pictures(options(tmp_path / "arrow"), model)]
    plain.append(pictures(options(tmp_path / "dict"), model))
    for source in plain:
        assert source.captions == list(CAPTIONS.values())
        assert [row.key for row in source.pixels.rows] == [row.key for row in plain[0].pixels.rows]
    with pytest.raises(RequestError, match="no split"):
        pictures(options(tmp_path / "dict", split="elsewhere"), model)


def test_a_broken_twin_is_named_too(four, picture, model, options, tmp_path):
    folder = four("twins")
    picture(4, (300, 300)).save(folder / "whole.jpg")
    for name in ("x.jpg", "y.jpg"):
        (folder / name).write_bytes((folder / "whole.jpg").read_bytes()[:3000])
    source = encoded(options(folder), model)
    assert len(source) == 5 and ["x.jpg" in source.skipped[0], "y.jpg" in source.skipped[1]] == [True, True]


def test_nothing_to_train_on(tmp_path, model, options):
    for images, words in ((tmp_path / "gone", "no such folder"), (tmp_path, "no picture"), (__file__, "is a file")):
        with pytest.raises(RequestError, match=words):
            pictures(options(images), model)


def test_metadata_without_captions_leaves_those_beside_the_pictures(four):
    folder = four("both")
    (folder / "metadata.csv").write_text("file_name\n" + "".join(f"{stem}.png\n" for stem in CAPTIONS))
    for stem, text in CAPTIONS.items():
        (folder / f"{stem}.txt").write_text(text)
    assert seen(folder)[0] == CAPTIONS
