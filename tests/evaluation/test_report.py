"""Reports: what a change is called, what the files hold, and that the page stands alone and reads well on a phone."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.browser import CHROMIUM, Browser
from tuner import __version__
from tuner.errors import RequestError
from tuner.evaluation.comparison import difference
from tuner.evaluation.report import Grid, Line, Report, Table, compare, load, save
from tuner.evaluation.statistics import Figure

HOSTILE = "<script>alert(1)</script> \"quoted\" 'a' {{ 7 * 7 }} & http://example.org/x.png"
KEYS = ["schema", "tuner", "suite", "title", "judged", "settings", "figures", "tables", "grids", "notes"]


def figure(value: float, low: float | None = None, high: float | None = None, **more: object) -> Figure:
    return Figure(str(more.pop("name", "CLIP score")), value, 40, low, high, **more)  # type: ignore[arg-type]


def squares(*colours: str, side: int = 16) -> tuple[Image.Image, ...]:
    return tuple(Image.new("RGB", (side, side), colour) for colour in colours)


def report(title: str = "fox, a LoRA", label: str = "a fox", after: float = 0.84) -> Report:
    recognised = Line(
        figure(after, after - 0.06, after + 0.05, name="Subject recognised", unit="share", groups=8),
        figure(0.03, 0.01, 0.06, name="Subject recognised", unit="share"),
        figure(after - 0.03, after - 0.09, after + 0.03, name="Subject recognised", unit="share", warning="few groups"),
        "higher", "How often the judge sees it.",
    )  # fmt: skip
    lost = Line(
        figure(20.0, 19, 21, unit="dB"), figure(30.0, 29, 31, unit="dB"), figure(-10, -12, -8, unit="dB"), "higher"
    )
    same = Line(figure(math.inf, name="PSNR"), figure(math.inf, name="PSNR"), better="higher")
    open_ = Line(figure(5, 4, 6, name="FD"), figure(5.2, 4, 6, name="FD"), figure(-0.2, -1, 0.6, name="FD"), "lower")
    cells = (("beach", figure(0.5, 0.3, 0.7, unit="share", warning="few pictures")), ("snow", "not measured"))
    grids = (
        Grid("Before and after", ("before", "after"), ((label, squares("red", "green", "blue", "white")),)),
        Grid(
            "Others", (), (("", squares("red", side=300)), ("masks", (Image.new("F", (8, 8)), Image.new("L", (8, 8)))))
        ),
    )
    return Report(
        "subject", title, {"adapter": "runs/fox"}, {"steps": 30, "guidance": 5.0, "limit": math.inf},
        (open_, recognised, lost, same),
        (Table("By background", ("background", "recognised"), cells, "a note"),), grids, ("one picture was left out",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "better", "margin", "verdict"),
    [
        (figure(2, 1, 3), "higher", 0, "better"),
        (figure(2, 1, 3), "lower", 0, "worse"),
        (figure(-2, -3, -1), "higher", 0, "worse"),
        (figure(-2, -3, -1), "lower", 0, "better"),
        (figure(2, 0, 3), "higher", 0, "unclear"),  # it touches zero
        (figure(2, -1, 3), "higher", 0, "unclear"),
        (figure(2, 1, 3), "higher", 2, "unclear"),  # no larger than the margin, but it may be
        (figure(2, 1, 3), "higher", 1.9, "better"),
        (figure(2, 1, 3), "higher", 3, "same"),  # the whole interval within the margin
        (figure(-0.1, -0.5, 0.5), "lower", 0.5, "same"),
        (figure(0, -0.5, 0.6), "lower", 0.5, "unclear"),
        (figure(0, 0, 0), "higher", 0, "same"),
        (figure(0, error=0), "lower", 0, "same"),
        (figure(2, error=1), "higher", 0, "better"),  # 2 - 1.96
        (figure(1.9, error=1), "higher", 0, "unclear"),
        (figure(9), "higher", 0, "unclear"),  # no interval
        (figure(9, low=8), "higher", 0, "unclear"),  # half of one
        (figure(math.inf, 1, 3), "higher", 0, "unclear"),
        (figure(2, math.nan, math.nan), "higher", 0, "unclear"),
        (figure(2, 1, 3), "", 0, ""),
        (None, "higher", 0, ""),
    ],
)
def test_verdict(change: Figure | None, better: str, margin: float, verdict: str) -> None:
    assert Line(figure(1), figure(1), change, better, margin=margin).verdict == verdict  # type: ignore[arg-type]


def test_sentences_tell_the_good_then_the_bad_then_the_rest() -> None:
    assert report().sentences() == [
        "Subject recognised: 3% before, 84% after: +81 points (+75 to +87). Better.",
        "CLIP score: 30.0 dB before, 20.0 dB after: −10.0 dB (−12.0 to −8.0). Worse.",
        "FD: 5.20 before, 5.00 after: −0.20 (−1.00 to +0.60). Unclear.",
        "PSNR: ∞ before, ∞ after.",
    ]


def test_the_json_has_its_keys_in_their_order(tmp_path: Path) -> None:
    page = save(report(), tmp_path / "r")
    found = json.loads((page.parent / "report.json").read_text(), parse_constant=pytest.fail)
    assert list(found) == KEYS
    assert (found["schema"], found["tuner"], found["suite"]) == (1, __version__, "subject")
    assert found["settings"] == {"steps": 30, "guidance": 5.0, "limit": None}
    for line in found["figures"]:
        assert list(line) == ["name", "about", "better", "verdict", "after", "before", "change"]
    assert [line["verdict"] for line in found["figures"]] == ["unclear", "better", "worse", ""]
    assert found["figures"][3]["after"] == {"name": "PSNR", "value": None, "n": 40}
    assert found["figures"][3]["change"] is None
    assert [list(table) for table in found["tables"]] == [["title", "head", "rows", "note"]]
    assert found["tables"][0]["rows"][0] == ["beach", report().tables[0].rows[0][1].json()]  # type: ignore[union-attr]
    assert [list(grid) for grid in found["grids"]] == [["title", "columns", "rows"]] * 2
    row = found["grids"][0]["rows"][0]
    assert list(row) == ["label", "pictures"] and row["pictures"][3] == "pictures/grid1-row01-04-after.png"
    assert found["notes"] == ["one picture was left out", "Subject recognised: few groups", "CLIP score: few pictures"]
    files = [page.parent / name for grid in found["grids"] for row in grid["rows"] for name in row["pictures"]]
    assert len(set(files)) == 7 and all(file.is_file() for file in files)
    assert Image.open(files[3]).getpixel((0, 0)) == (255, 255, 255)


def test_the_same_report_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    save(report(), tmp_path / "here")
    code = "import sys; from pathlib import Path; from tests.evaluation.test_report import report, save\n"
    code += "save(report(), Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], cwd=root, env=environment, check=True)
    files = sorted(p.relative_to(tmp_path / "here") for p in (tmp_path / "here").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "there") for p in (tmp_path / "there").rglob("*") if p.is_file())
    assert len(files) == 2 + 7
    for file in files:
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file


def test_the_page_stands_alone_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    page = save(report(HOSTILE, HOSTILE), tmp_path / "r").read_text()
    assert len(re.findall(r'<img src="data:image/(?:png|webp);base64,', page)) == page.count("<img") == 7
    assert not re.search(r'\s(?:src|srcset|href|action)="(?!data:)|url\(|@import', page)
    assert "<script" not in page and "&lt;script&gt;" in page and "{{ 7 * 7 }}" in page
    assert all(re.findall(r'<img [^>]*alt="([^"]+)"', page))
    plain = save(report(), tmp_path / "plain").read_text()
    assert not re.search(r"https?:|//[a-z]", plain)
    assert plain.index("What improved") < plain.index("What got worse") < plain.index("Before and after")
    assert plain.index("Others") < plain.index("By background") < plain.index("How it was measured")


def test_figures_that_are_held_against_nothing(tmp_path: Path) -> None:
    lines = (Line(figure(0.5, 0.4, 0.6, unit="share"), better="higher"), Line(figure(3)))
    alone = Report("pictures", "a folder", {}, {}, lines, (Table("empty", ("a",), ()),), report().grids)
    page = save(alone, tmp_path).read_text()
    assert "held against nothing" in page and "higher is better" in page and "no interval" in page
    assert page.index("What was measured") < page.index("Before and after")
    assert "got worse" not in page and "In detail" not in page


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    page = save(report(), tmp_path / "r")
    found = load(page.parent)
    assert found == load(page.parent / "report.json")
    assert [line.after for line in found.figures] == [line.figure for line in report().lines]
    assert found.tables[0].rows == report().tables[0].rows
    assert list(found.notes) == report().all_notes()
    (page.parent / found.grids[0].rows[0].pictures[1]).unlink()
    (page.parent / found.grids[0].rows[0].pictures[2]).write_bytes(b"no picture")
    assert load(page.parent).notes[-1] == f"2 of 7 pictures are missing or broken in {page.parent}."


def test_only_pictures_of_its_own_folder_are_read(tmp_path: Path) -> None:
    page = save(report(), tmp_path / "r")
    squares("red")[0].save(tmp_path / "elsewhere.png")
    for name in ("../elsewhere.png", str(tmp_path / "elsewhere.png")):
        assert load(page.parent).picture(name) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no report at"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
        ("[]", "no report of"),
        ('{"schema": 1}', r"no report of .*tuner: field required"),
        ('{"schema": 2}', "install a newer tuner"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str | None, why: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text, encoding="latin-1")
    with pytest.raises(RequestError, match=why) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_difference_takes_both_as_independent() -> None:
    # Newcombe 1998 (Statistics in Medicine 17), table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339
    first, last = figure(48 / 80, 0.4904, 0.7004, unit="share"), figure(56 / 70, 0.6918, 0.8773, unit="share")
    found = difference(first, last)
    assert found is not None and (found.low, found.high) == (
        pytest.approx(0.0524, abs=1e-3),
        pytest.approx(0.3339, abs=1e-3),
    )
    found = difference(figure(1, error=3), figure(3, error=4))
    assert found is not None and found.low is not None and found.high is not None
    assert (found.value, found.high - 2) == (2, pytest.approx(1.96 * 5, abs=1e-3)) and found.low == pytest.approx(
        4 - found.high
    )
    alone = difference(figure(1), figure(3, 2, 4))
    assert alone is not None and alone.value == 2 and alone.low is None and alone.warning
    assert difference(figure(1), figure(math.inf)) is None
    assert difference(figure(1, unit="dB"), figure(1)) is None


def test_two_reports_side_by_side(tmp_path: Path) -> None:
    one, two = report(), report("owl, a LoRA", after=0.5)
    two = Report(two.suite, two.title, two.judged, {**two.settings, "steps": 50}, two.lines[1:], grids=two.grids)
    folders = [save(found, tmp_path / name).parent for name, found in (("one", one), ("two", two))]
    page = compare(folders, tmp_path / "both")
    assert page == tmp_path / "both" / "compare.html"
    found = json.loads((tmp_path / "both" / "compare.json").read_text(), parse_constant=pytest.fail)
    assert list(found) == ["schema", "tuner", "reports", "differs", "figures", "notes"]
    assert found["differs"] == [{"name": "steps", "values": [30, 50]}]
    by = {line["name"]: line for line in found["figures"]}
    assert by["Subject recognised"]["verdict"] == "worse"
    assert by["Subject recognised"]["change"]["value"] == pytest.approx(-0.34)
    assert by["FD"]["values"][1] is None and by["FD"]["change"] is None
    assert "independent" in found["notes"][0]
    text = page.read_text()
    assert "owl, a LoRA" in text and "A, B: before" in text and not re.search(r"https?:", text)
    assert text.count("<img") == 7  # what both share stands once


def test_a_comparison_needs_two(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="at least two"):
        compare([save(report(), tmp_path).parent], tmp_path / "both")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed")
@pytest.mark.parametrize("kind", ["report", "compare"])
def test_the_page_in_a_browser(tmp_path: Path, kind: str) -> None:
    long = "a fox " * 60 + "w" * 300
    pages = [
        save(report(title, label), tmp_path / title[:3])
        for title, label in (("fox", long), ("owl" + "x" * 200, HOSTILE))
    ]
    page = pages[1] if kind == "report" else compare([page.parent for page in pages], tmp_path / "both")
    whole = "[...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length"
    with Browser(tmp_path / "profile") as browser:
        for width in (390, 1200):
            for dark in (False, True):
                browser.open(page, width, dark)
                browser.value("document.querySelectorAll('details').forEach(d => d.open = true)")
                assert browser.value("document.documentElement.scrollWidth") <= browser.value("innerWidth") == width
                assert browser.value(whole) >= 7
                assert not browser.errors() and not browser.requests()
