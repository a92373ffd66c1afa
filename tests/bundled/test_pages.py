"""What pages are made with: the style of the page of merging, and curves."""

import json
from functools import partial
from statistics import fmean

import numpy as np
import pytest

from tuner.bundled import emoji, world
from tuner.bundled.charts import COLOURS, Chart, charts
from tuner.bundled.kept import keep_strip, kept, kept_strip
from tuner.bundled.merging import foggy, foggy_folder
from tuner.commands.show import Silent
from tuner.config import build
from tuner.evaluation.bench import Bench, Judged
from tuner.evaluation.concepts import concepts_of, shows
from tuner.evaluation.panel import Panel
from tuner.evaluation.request import Config
from tuner.evaluation.statistics import Figure


def test_fog_is_a_style_that_judges_can_tell_and_see_through(tmp_path):
    panel = Panel.load()
    shown = ("dog", "rocket", "pizza", "car")
    rest = tuple(name for name in emoji.KNOWN if name not in shown)  # fogged and plain, as many as on the page
    scenes = list(world.scenes(3, 40, shown, styles=("plain",)))
    plain, misty = [world.draw(it) for it in scenes], [foggy(world.draw(it)) for it in scenes]
    folder = foggy_folder(tmp_path / "foggy", rest)
    assert (folder / "01.txt").read_text().startswith("a foggy picture of a ") and len(list(folder.iterdir())) == 192
    config = build(Config, {"style": [f"a foggy picture={folder}"], "world": True})
    bench = Bench("merge", Judged("it", "emoji"), config, Silent())
    (fog,) = concepts_of(bench)
    others = [world.draw(it) for it in world.scenes(4, 130, rest, styles=("plain",))]
    assert shows(bench, fog, misty, others).mean() >= 0.95 and shows(bench, fog, plain, others).mean() <= 0.05
    for aspect in ("subject", "background"):
        assert fmean(panel.right(misty, aspect, [getattr(it, aspect) for it in scenes])) >= 0.8


def test_curves_lie_where_their_figures_are():
    def share(value: float) -> Figure:
        return Figure("it", value, 10, value - 0.05, value + 0.05, unit="share")

    one = Chart("right", {"ours": {1: share(0.2), 8: share(0.9)}, "theirs": {1: share(0.5), 8: share(0.5)}})
    picture = charts([one])
    blue = [(x, y) for x in range(picture.width) for y in range(30, picture.height)
            if picture.getpixel((x, y)) == COLOURS[0]]  # fmt: skip
    (x0, y0), (x1, y1) = blue[len(blue) // 20], blue[-len(blue) // 20]
    assert x0 < picture.width / 2 < x1 and y0 > y1 + 80  # it rises from the left to the right


def test_what_was_measured_is_read_again_unless_something_else_is_asked(tmp_path):
    file, measured = tmp_path / "page" / "one.json", []

    def measure(name: str) -> float:
        measured.append(name)
        return len(measured) / 4

    def ask(steps: int, *names: str) -> list[float]:
        return [*kept(file, {"steps": steps, "of": ("a",)}, {name: partial(measure, name) for name in names}).values()]

    assert ask(1, "x") == [0.25] and ask(1, "y", "x") == [0.5, 0.25] and ask(1, "x") == [0.25]
    assert ask(2, "x") == [0.75] and measured == ["x", "y", "x"]

    def broken() -> float:
        raise ValueError

    with pytest.raises(ValueError):
        kept(file, {"steps": 3}, {"z": partial(measure, "z"), "x": broken})
    assert json.loads(file.read_text())["found"] == {"z": 1.0}  # what was measured before is not lost


def test_strips_hold_pictures_in_their_order(tmp_path):
    pictures = [world.draw(it) for it in world.scenes(3, 3, ("dog", "rocket", "pizza"))]
    keep_strip(tmp_path / "strip.webp", pictures)
    found = kept_strip(tmp_path / "strip.webp")
    for place, picture in enumerate(found):
        gaps = [np.abs(np.asarray(picture, float) - np.asarray(one, float)).mean() for one in pictures]
        assert len(found) == 3 and picture.size == (64, 64) and int(np.argmin(gaps)) == place and min(gaps) < 6
    assert kept_strip(tmp_path / "none.webp") == []
