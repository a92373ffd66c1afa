"""`tuner evaluate --suite few-step`: what was distilled against its teacher, and what must come out the same."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.adapters.drawn import adapter, saved
from tuner.commands.evaluate import report_of
from tuner.commands.show import Silent
from tuner.config import build
from tuner.evaluation.bench import Bench, Judged
from tuner.evaluation.distilled import Side, manner_of, sides
from tuner.evaluation.few import Way, drawn, real_pictures, scenes
from tuner.evaluation.negated import LITTLE, negated, ways
from tuner.evaluation.request import Config
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.sampling.manner import Manner

PROMPTS = ["a dog on a red background", "a rocket on a blue background", "a pizza on a green background"]
FAST = {"count": 4, "few": [1, 2], "teacher_steps": 3, "world": True, "other": PROMPTS}
LCM = Manner("lcm", 4, 1.0, 50).metadata()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(here, tiny_base):
    """`file("lcm", **LCM)`: a LoRA's file of random values, that says this of itself; `scale` 0 is all zeros."""
    base = LatentDiffusion.load(tiny_base)

    def made(name: str, scale: float = 0.1, **facts: str) -> str:
        lora = adapter(base, len(name), where=r"unet\..*attn.*", scale=scale, **facts)
        return str(saved(lora, here / f"{name}.safetensors"))

    return made


def rows(report, title: str = "In how many steps") -> dict[str, dict]:
    table = next(one for one in report.tables if one.title == title)
    return {row[0]: dict(zip(table.head[1:], row[1:], strict=True)) for row in table.rows}


def bench(tiny_base: str, judged: Judged | None = None, **more: object) -> Bench:
    return Bench("few-step", judged or Judged("it", tiny_base), build(Config, {**FAST, **more}), Silent())


def test_zeros_draw_as_their_teacher_does_in_as_many_steps(file, tiny_base):
    zeros = file("zeros", 0.0, **LCM)
    options = {**FAST, "base": tiny_base, "adapter": [zeros], "sampler": "lcm", "guidance": 1.0}
    report = report_of(build(Config, options))
    assert report.suite == "few-step"  # by its header alone
    found = rows(report)
    assert list(found) == ["student, 1 step", "student, 2 steps", "teacher, 1 step", "teacher, 2 steps",
                           "teacher, 3 steps"]  # fmt: skip
    for end in ("1 step", "2 steps"):
        ours, theirs = found[f"student, {end}"], found[f"teacher, {end}"]
        assert {**ours, "seconds a picture": 0} == {**theirs, "seconds a picture": 0}
    assert set(found["student, 1 step"]) == {
        "subject right", "background right", "text agreement-judge", "diversity-judge", "KID-judge", "precision-judge",
        "recall-judge", "seconds a picture",
    }  # fmt: skip
    grid = report.grids[0]
    assert grid.columns == ("student, 1 step", "student, 2 steps", "teacher, 3 steps") and len(grid.rows) == 3
    assert grid.rows[0][1][0].tobytes() != grid.rows[0][1][1].tobytes()


def test_a_student_that_differs_is_held_against_many_steps(file, tuner, tiny_base):
    lcm = file("lcm", **LCM)
    words = [word for text in PROMPTS for word in ("--other", text)]
    done = tuner("evaluate", "--base", tiny_base, "--adapter", lcm, "--few", 2, "--teacher-steps", 3, "--count", 4,
                 "--world", *words, "--out", "out", "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    report = json.loads(Path("out/report.json").read_text())
    figures = {one["name"]: one for one in report["figures"]}
    named = {"subject right, 2 steps", "KID-judge, 2 steps", "precision-judge, 2 steps", "recall-judge, 2 steps",
             "diversity-judge, 2 steps", "seconds a picture, 2 steps"}  # fmt: skip
    assert named <= set(figures) and "teacher in 3 steps" in figures["KID-judge, 2 steps"]["about"]
    assert figures["diversity-judge, 2 steps"]["change"]["value"] != 0
    told = {name: figures[f"{name}, 2 steps"]["better"] for name in ("KID-judge", "diversity-judge", "subject right")}
    assert told == {"KID-judge": "lower", "diversity-judge": "", "subject right": "higher"}
    assert figures["KID-judge, 2 steps"]["after"]["against"] == 12  # as many new scenes
    assert (report["settings"]["sampler"], report["settings"]["guidance"]) == ("lcm", 1.0)
    assert report["settings"]["teacher"] == "dpm++, 3 steps, guidance 4"
    asked = ("--prompt", "a dog", "--no-world", "--base", tiny_base, "--adapter", lcm, "--few", 2, "--count", 2)
    done = tuner("evaluate", *asked, "--teacher-steps", 3, "--out", "moved", "--quiet")
    assert done.exit_code == 0, done.stderr
    found = json.loads(Path("moved/report.json").read_text())["figures"]
    moved = next(one for one in found if one["name"].startswith("moved by a negative prompt"))
    assert moved["better"] == "" and moved["about"].endswith("guidance 2; teacher's guidance 2.")


def test_the_teacher_of_a_run_has_the_guidance_that_it_distilled(tuner, tiny_base, here):
    done = tuner("distill-lcm", "--base", tiny_base, "--prompt", "a dog", "--steps", 2, "--batch-size", 2, "--samples",
                 0, "--learning-rate", "1e-3", "--rank", 4, "--guidance-max", 7, "--quiet", "--out", "run")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    asked = ("evaluate", "run", "--few", 2, "--teacher-steps", 3, "--count", 2, "--no-world", "--prompt", "a dog")
    for name, flags, scale in (("own", (), 7), ("said", ("--guidance", 3), 3)):
        done = tuner(*asked, *flags, "--quiet", "--out", name)
        assert done.exit_code == 0, done.stderr
        settings = json.loads(Path(name, "report.json").read_text())["settings"]
        assert settings["teacher"] == f"dpm++, 3 steps, guidance {scale}"


@pytest.mark.parametrize(
    ("given", "against", "left"),
    [
        (["lcm", "plain"], "", ["plain"]),  # the teacher has all but what is distilled
        (["plain"], "", []),  # nothing says that it is: the teacher is the base alone
        (["plain"], "other", ["plain"]),  # a distilled base and its teacher, both with it
        (["lcm"], "", []),
    ],
)
def test_who_is_the_teacher(file, tiny_base, tiny_family, given, against, left):
    files = {"lcm": Path(file("lcm", **LCM)), "plain": Path(file("plain"))}
    other = tiny_family("sd1") if against else ""
    judged = Judged("it", tiny_base, [(files[name], 0.5) for name in given])
    student, teacher = sides(bench(tiny_base, judged, against=other, sampler="ddim", guidance=3.0))
    assert student.adapters == judged.adapters and student.base == tiny_base
    assert [path.stem for path, _ in teacher.adapters] == left and teacher.base == (other or tiny_base)
    assert (student.sampler, student.guidance, teacher.sampler, teacher.guidance) == ("lcm", 1.0, "ddim", 3.0)


def test_a_file_says_how_it_wants_to_be_drawn(file, tiny_base):
    phased = Path(file("phased", **Manner("ddim-trailing", 2, 1.5, 20).metadata()))
    judged = Judged("it", tiny_base, [(Path(file("plain")), 1.0), (phased, 1.0)])
    assert manner_of(judged) == Manner("ddim-trailing", 2, 1.5, 20)
    student, _ = sides(bench(tiny_base, judged))
    assert (student.sampler, student.guidance) == ("ddim-trailing", 1.5)
    assert manner_of(Judged("it", tiny_base, [(Path(file("none")), 1.0)])) is None


def test_a_distilled_pipeline_and_its_teacher(here, tiny_base):
    """A whole model that is told its guidance: as its folder says, and as its teacher's prompts are followed."""
    from tuner.models.architecture import save

    model = LatentDiffusion.load(tiny_base)
    save(model, here / "mine", manner=Manner("lcm", 2, 2.5, 50))
    it = bench("mine", Judged("it", "mine"), against=tiny_base)
    student, teacher = sides(it)
    assert (student.base, student.sampler, student.guidance, teacher.base) == ("mine", "lcm", 2.5, tiny_base)
    run = Judged("it", "mine", values={"base": tiny_base}, folder=Path())
    assert sides(bench("mine", run))[1].base == tiny_base
    report = report_of(build(Config, {**FAST, "base": "mine", "against": tiny_base, "suite": "few-step", "few": [2]}))
    assert list(rows(report)) == ["student, 2 steps", "teacher, 2 steps", "teacher, 3 steps"]


def test_without_guidance_a_negative_prompt_does_nothing(file, tiny_base):
    judged = Judged("it", tiny_base, [(Path(file("lcm", **LCM)), 1.0)])
    it = bench(tiny_base, judged, world=False)
    student, teacher = sides(it)
    four = [*ways(Way(teacher, 3)), *ways(Way(student, 2))]
    assert [one.side.guidance for one in four] == [4.0, LITTLE, 1.0, LITTLE]
    assert len(ways(four[1])) == 1
    moved = [negated(it, way, PROMPTS).moved for way in four]
    assert all((one > 1e-6).all() for one in (moved[0], moved[1], moved[3]))
    assert moved[2] == pytest.approx(0)


def test_a_negative_prompt_names_what_both_judges_see():
    """The bundled base, with guidance: it draws another background than the one that the negative prompt names."""
    it = bench("emoji")
    way = Way(Side("teacher", "emoji", [], "dpm++", 4.0), 8)
    found = negated(it, way, ["a rocket on a red background", "a rocket on a blue background", "a key"])
    assert found is not None and found.groups == ["a rocket", "a key"]  # without a background, each subject once
    figures = {one.name: one.value for one in found.figures("judge")}
    assert figures["negative prompt obeyed"] == 1 and figures["moved by a negative prompt-judge"] > 0.1
    plain = negated(it, Way(Side("student", "emoji", [], "dpm++", 1.0), 8), ["a rocket", "a key"])
    assert plain is None or {one.name: one.value for one in plain.figures("judge")} == pytest.approx(
        {"negative prompt obeyed": 0, "moved by a negative prompt-judge": 0}
    )


def test_real_pictures_are_new_scenes_of_what_is_asked_for(tiny_base, here):
    it = bench(tiny_base)
    assert it.panel is not None
    words = ["a dog on a red background", "a cat on a pink background", "a mosaic of a fox on a blue background",
             "a key left of a car on a white background", "something else"]  # fmt: skip
    made = list(scenes(it, words))
    said = [both[0] for both in it.panel.judge(made)]
    assert [(one.subject, one.background, one.style) for one in said[:3]] == [
        ("dog", "red", "plain"), ("cat", "pink", "plain"), ("fox", "blue", "mosaic")
    ]  # fmt: skip
    assert it.panel.relation_right([made[3]], [it.asked(words[3]).relation]) == [True]
    assert len(made) == 5 and made[0].tobytes() == next(scenes(it, words)).tobytes()
    assert real_pictures(bench(tiny_base, world=False), PROMPTS) is None
    (here / "real").mkdir()
    for i in range(5):
        Image.new("RGB", (20, 20), (40 * i, 0, 0)).save(here / "real" / f"{i}.png")
    assert real_pictures(bench(tiny_base, world=False, images="real"), PROMPTS).shape == (5, 416)


def test_each_way_draws_the_same_seeds(tiny_base):
    it = bench(tiny_base)
    way = Way(Side("teacher", tiny_base, [], "ddim", 1.0), 2)
    shots = it.shots(PROMPTS[:1], 2)
    one, seconds = drawn(it, way, shots)
    again, _ = drawn(it, way, shots[1:])
    assert seconds > 0 and max(abs(a - b) for a, b in zip(one[1].tobytes(), again[0].tobytes(), strict=True)) <= 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--base", "{}"], "name a distilled --adapter, or by --base a distilled model and by --against"),
        (["--base", "mine"], "name a distilled --adapter, or by --base a distilled model and by --against"),
        (
            ["--base", "{}", "--adapter", "lcm.safetensors", "--few", "60"],
            "--few 60 is more steps than the sampler lcm has",
        ),
        (["--base", "{}", "--adapter", "lcm.safetensors", "--few", "0"], "--few must be at least 1, not 0"),
        (["--base", "{}", "--adapter", "lcm.safetensors", "--against", "real"], "real pictures are named by --images"),
        (
            ["--base", "{}", "--adapter", "lcm.safetensors", "--images", "nowhere"],
            "--images nowhere: there is no such folder",
        ),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(tuner, file, here, tiny_base, words, sentence):
    from tuner.models.architecture import save

    file("lcm", **LCM)
    save(LatentDiffusion.load(tiny_base), here / "mine", manner=Manner("lcm", 4, 1.0, 50))
    (here / "real").mkdir()
    Image.new("RGB", (20, 20)).save(here / "real" / "1.png")
    done = tuner("evaluate", *(word.format(tiny_base) for word in words), "--suite", "few-step", "--prompt", "a dog",
                 "--no-world", "--quiet", "--out", "out")  # fmt: skip
    assert done.exit_code == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and re.search(sentence, done.stderr), done.stderr
    assert not Path("out").exists()
