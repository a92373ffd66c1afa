"""The one door for pictures: every kind of fault on a real file (FAULTS, rows 17 to 26 and 31)."""

import os

import numpy as np
import pytest
from PIL import Image

from tuner.data.buckets import placement
from tuner.data.pictures import PIXELS, BadPicture, contents, fitted, header, read, shown


def near(colour, wanted, within=3):
    assert all(abs(a - b) <= within for a, b in zip(colour, wanted, strict=True)), (colour, wanted)


def test_a_torn_an_empty_and_a_false_picture_are_named(tmp_path, picture):
    picture(1, (200, 200)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    for name, reason in (("torn.jpg", "truncated"), ("empty.png", "empty"), ("text.png", "no picture of a kind")):
        with pytest.raises(BadPicture, match=f"{name} cannot be read: .*{reason}"):
            read(tmp_path / name)


def test_a_bomb_is_rejected_by_its_header(tmp_path, bomb):
    file = bomb(tmp_path / "bomb.png")
    assert file.stat().st_size < 200
    for look in (lambda: header(file.read_bytes(), "bomb.png"), lambda: read(file)):
        with pytest.raises(BadPicture, match=rf"bomb.*{PIXELS:,} pixels"):
            look()


def test_the_limit_of_pixels_holds_where_another_library_has_lifted_pillows(tmp_path, bomb, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(BadPicture, match="pixels"):
        read(bomb(tmp_path / "bomb.png"))


def test_cmyk(tmp_path):
    inks = {"red": (0, 255, 255, 0), "blue": (255, 255, 0, 0), "white": (0, 0, 0, 0), "black": (0, 0, 0, 255)}
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}
    for name, ink in inks.items():
        for kind in ("jpg", "tif"):
            Image.new("CMYK", (16, 16), ink).save(tmp_path / f"{name}.{kind}")
            near(read(tmp_path / f"{name}.{kind}").getpixel((8, 8)), colours[name], 6)


def test_sixteen_bits(tmp_path, png16):
    ramp = np.linspace(0, 65535, 64).round().astype(int)
    grey = read(png16(tmp_path / "grey.png", np.tile(ramp[None, :, None], (4, 1, 1))))
    assert np.abs(np.asarray(grey)[0, :, 0] - ramp / 257).max() <= 0.5
    colours = np.stack([ramp, ramp[::-1], np.full(64, 32768)], -1)[None].repeat(4, 0)
    rgb = read(png16(tmp_path / "rgb.png", colours))
    assert np.abs(np.asarray(rgb)[0] - colours[0] / 257).max() <= 1
    clear = np.concatenate([colours, np.zeros((4, 64, 1), int)], -1)
    assert read(png16(tmp_path / "rgba.png", clear)).getextrema() == ((255, 255),) * 3
    half = np.full((4, 4, 2), 32768)
    near(read(png16(tmp_path / "la.png", half)).getpixel((0, 0)), (191, 191, 191))


def test_what_has_no_scale_is_refused(tmp_path):
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((20, 20), 1 << 20, np.int32)).save(tmp_path / "deep.tif")
    for name, reason in (("float.tif", "floating-point"), ("deep.tif", "32 bits")):
        with pytest.raises(BadPicture, match=reason):
            read(tmp_path / name)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_in_the_header_and_in_the_pixels(tmp_path, kind, turn):
    upright = Image.new("RGB", (48, 32), (255, 255, 255))
    upright.paste((255, 0, 0), (0, 0, 24, 16))  # red at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what the camera did: the transpose that 'turn' takes back
    stored = upright.transpose(Image.Transpose(undo[turn])) if turn > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / f"it.{kind}", exif=exif, **({"quality": 100} if kind in ("jpg", "webp") else {}))
    data = (tmp_path / f"it.{kind}").read_bytes()
    assert header(data, "it").size == (48, 32)
    seen = read(tmp_path / f"it.{kind}")
    assert seen.size == (48, 32)
    near(seen.getpixel((4, 4)), (255, 0, 0), 12)
    for corner in ((44, 4), (4, 28), (44, 28)):
        near(seen.getpixel(corner), (255, 255, 255), 12)


def test_what_is_clear_is_white(tmp_path):
    half = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (10, 0, 20, 20))
    half.paste((0, 0, 255, 128), (0, 10, 10, 20))
    half.save(tmp_path / "half.png")
    half.save(tmp_path / "half.webp", lossless=True, exact=True)
    for name in ("half.png", "half.webp"):
        seen = read(tmp_path / name)
        assert seen.getpixel((5, 5)) == (255, 255, 255) and seen.getpixel((15, 5)) == (0, 0, 255)
        near(seen.getpixel((5, 15)), (127, 127, 255), 1)


def test_a_palette_with_a_clear_colour(tmp_path):
    flat = Image.new("P", (20, 20), 0)
    flat.putpalette([255, 0, 0, 0, 255, 0])
    flat.paste(1, (10, 0, 20, 20))
    flat.save(tmp_path / "flat.png", transparency=0)
    flat.save(tmp_path / "flat.gif", transparency=0)
    flat.save(tmp_path / "bytes.png", transparency=bytes([0, 255]))
    for name in ("flat.png", "flat.gif", "bytes.png"):
        seen = read(tmp_path / name)
        assert seen.getpixel((5, 5)) == (255, 255, 255) and seen.getpixel((15, 5)) == (0, 255, 0)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first(tmp_path, kind):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(tmp_path / f"it.{kind}", save_all=True, append_images=frames[1:], **options)
    assert header((tmp_path / f"it.{kind}").read_bytes(), "it").animated
    near(read(tmp_path / f"it.{kind}").getpixel((16, 16)), (200, 0, 0), 2)
    frames[0].save(tmp_path / f"one.{kind}")
    assert not header((tmp_path / f"one.{kind}").read_bytes(), "one").animated


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (2000, 20), (20, 2000)])
def test_what_is_too_small_or_too_long_has_no_place(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels"):
        placement(size, 64, 16)


def test_a_pipe_a_socket_a_device_and_a_folder_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name, kind in (("pipe.png", "pipe"), ("folder.png", "folder"), ("device.png", "device")):
        with pytest.raises(BadPicture, match=f"{name} cannot be read: it is not a file but a {kind}"):
            contents(tmp_path / name)
    with pytest.raises(BadPicture, match="no such file"):
        contents(tmp_path / "gone.png")


def test_a_file_is_known_by_what_it_holds_not_by_its_name(tmp_path):
    Image.new("RGB", (20, 20), (9, 8, 7)).save(tmp_path / "it.png")
    (tmp_path / "it.png").rename(tmp_path / "it.jpg")
    assert read(tmp_path / "it.jpg").getpixel((3, 3)) == (9, 8, 7)


@pytest.mark.parametrize("number", range(40))
def test_garbage_is_a_bad_picture_and_nothing_else(tmp_path, picture, number):
    random = np.random.default_rng(number)
    kind = ("png", "jpg", "gif", "webp", "tif", "bmp")[number % 6]
    picture(number).save(tmp_path / f"it.{kind}")
    data = bytearray((tmp_path / f"it.{kind}").read_bytes())
    for place in random.integers(0, min(len(data), 200), 12):
        data[place] = random.integers(256)
    (tmp_path / f"it.{kind}").write_bytes(data)
    try:
        assert read(tmp_path / f"it.{kind}").mode == "RGB"
    except BadPicture as error:
        assert "\n" not in str(error) and f"it.{kind}" in str(error)


def test_the_place_is_the_middle():
    wide = Image.new("RGB", (64, 32), (255, 0, 0))
    wide.paste((0, 255, 0), (16, 0, 48, 32))
    array = fitted(wide, placement(wide.size, 16, 4, squares=True))
    assert array.shape == (3, 16, 16)
    assert (array[1] > 235).all()


def test_a_place_is_scaling_and_then_cropping(picture):
    photo = picture(3, (300, 211))
    place = placement(photo.size, 64, 16)
    plain = photo.resize(place.scaled, Image.Resampling.LANCZOS)
    box = (place.left, place.top, place.left + place.bucket[0], place.top + place.bucket[1])
    wanted = np.asarray(plain.crop(box)).transpose(2, 0, 1).astype(int)
    assert np.abs(fitted(photo, place) - wanted).max() <= 1


def test_names_stay_one_line():
    assert shown("a\nb\x1b[31m 猫 😀.png") == "a\\nb\\x1b[31m 猫 😀.png"
    assert shown(os.fsdecode(b"caf\xe9.png")).isprintable()
