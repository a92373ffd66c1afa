"""What evaluation reads: folders of pictures, tables of prompts."""

import json

import pytest
from PIL import Image

from tuner.errors import RequestError
from tuner.evaluation.gallery import Gallery
from tuner.evaluation.prompts import Prompt, common_words, read


def folder(tmp_path, count=3, size=(8, 8)):
    made = tmp_path / "set"
    made.mkdir()
    for i in range(count):
        Image.new("RGB", size, (40 * i, 10, 10)).save(made / f"{i}.png")
        (made / f"{i}.txt").write_text(f"caption {i}")
    return made


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path):
    made = folder(tmp_path)
    gallery = Gallery.open(str(made), "--pictures")
    assert len(gallery) == 3
    assert gallery.captions == ["caption 0", "caption 1", "caption 2"]
    assert gallery[2].getpixel((0, 0)) == (80, 10, 10)
    assert [picture.getpixel((0, 0))[0] for picture in gallery[1:]] == [40, 80]
    (made / "1.png").write_bytes(b"no picture")
    assert gallery[0].size == (8, 8)
    with pytest.raises(RequestError, match=r"^--pictures .*1\.png.*mend it or take it out\.$"):
        list(gallery)


def test_a_folder_that_is_none_is_named_by_its_option(tmp_path):
    with pytest.raises(RequestError, match=r"^--against nowhere"):
        Gallery.open("nowhere", "--against")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"^--against .*empty holds no picture"):
        Gallery.open(str(tmp_path / "empty"), "--against")


TABLES = {
    "a.txt": "# comment\na cat\n\na dog\n",
    "a.csv": 'Prompts,Category\n"a cat",Animals\na  dog,Animals\n,Empty\n',
    "a.tsv": "Prompt\tCategory\tChallenge\na cat\tAnimals\tBasic\na dog\tAnimals\tBasic\n",
    "a.jsonl": '{"text": "a cat", "category": "Animals"}\n{"prompt": "a dog", "category": "Animals"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_prompts_are_read_from_every_kind_of_file(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name])
    category = "" if name == "a.txt" else "Animals"
    assert read(str(tmp_path / name)) == [Prompt("a cat", category), Prompt("a dog", category)]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "words,kind\na cat,x\n", "it needs a column `prompt`"),
        ("a.jsonl", "[1, 2]\n", "is no table of objects"),
        ("a.jsonl", "{nothing\n", "cannot be read as a table"),
        ("a.txt", "a cat --s 4\n", "leave the -- flags out"),
        ("a.txt", "\n", "holds no prompt"),
    ],
)
def test_what_is_no_table_of_prompts_is_refused(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=sentence):
        read(str(tmp_path / name))


def test_a_hub_id_without_network_is_refused_in_a_sentence():
    with pytest.raises(RequestError, match="could not be had from the Hub"):
        read("nobody/no-such-prompts")


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        (["a teddy bear on a red background", "a teddy bear on a blue background"], "a teddy bear"),
        (["a photo of sks dog in the snow", "sks dog on a beach"], "sks dog"),
        (["the old house", "the old house"], "the old house"),
        (["a cat", "a dog"], ""),
        (["", ""], ""),
        ([], ""),
        (["a neon of a fox", "a fox, red background"], "a fox"),
    ],
)
def test_a_subject_is_called_what_its_captions_share(captions, words):
    assert common_words(captions) == words


def test_metadata_tables_caption_a_set(tmp_path):
    made = folder(tmp_path)
    rows = [json.dumps({"file_name": f"{i}.png", "text": f"row {i}"}) for i in range(3)]
    (made / "metadata.jsonl").write_text("\n".join(rows))
    assert Gallery.open(str(made), "--pictures").captions == ["row 0", "row 1", "row 2"]
