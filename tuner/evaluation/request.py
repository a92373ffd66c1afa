"""What `tuner evaluate` is asked for: its options, and whether they fit together. Nothing here needs torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..config import ELSEWHERE, Options, argument, common, option
from ..data.options import Condition
from ..errors import RequestError
from ..sampling.shots import GUIDANCE, STEPS

Few = Annotated[int, Field(ge=1, le=1000)]


class DrawingOptions(Options):
    """How the pictures are drawn that are judged."""

    panel: ClassVar[str] = "Drawing"

    steps: int = option(STEPS, "Denoising steps.", ge=1, le=1000)
    guidance: float = option(GUIDANCE, "How closely to follow the prompt; 1 is without guidance.", ge=0)
    sampler: Literal["ddpm", "ddim", "dpm++", "euler", "euler-a", "lcm", "ddim-trailing"] = option(
        "dpm++", "The sampler."
    )
    resolution: int = option(0, "Side of the pictures in pixels; 0 is the base's own.", ge=0)
    batch_size: int = option(4, "Pictures at once; this changes memory and speed, not the pictures.", ge=1)


class PromptOptions(Options):
    """What is drawn."""

    panel: ClassVar[str] = "Prompts"

    prompts: str = common(
        "", "Prompts: a text file (one a line), a .csv, .tsv or .jsonl with categories, or a Hub id.", "FILE"
    )
    prompt: list[str] = option([], "A prompt; {} stands for the subject; may be repeated.", "TEXT")
    other: list[str] = option([], "A prompt of something else, which is to stay as it is; may be repeated.", "TEXT")
    subject: str = common("", "What the adapter was taught, as prompts call it; by default what its captions share.")
    images: str = option(
        "",
        "Reference pictures, by default what the run was trained on; for control unseen ones, for few steps real ones.",
        "DIR",
    )


class ConditionOptions(Options):
    """What a control network is to draw after."""

    panel: ClassVar[str] = "Control networks"

    condition: Condition | None = option(None, "What it draws after, where neither its file nor its run says.")
    examples: int = option(24, "Conditions: of --images so many, or of new scenes of the bundled base's world.", ge=1)


class ConceptOptions(Options):
    """What an adapter holds that was made of several."""

    panel: ClassVar[str] = "Several concepts"

    concept: list[str] = option(
        [], "A subject that it holds: what prompts call it, and its pictures; may be repeated.", "TEXT=DIR"
    )
    style: list[str] = option(
        [], "A style that it holds, as in TEXT of a dog; {} in it is the dog's place; may be repeated.", "TEXT=DIR"
    )


class FewStepOptions(Options):
    """How few steps something distilled draws in."""

    panel: ClassVar[str] = "Few steps"

    few: list[Few] = option([1, 2, 4, 8], "Steps that the distilled model takes; may be repeated.", "N", min_length=1)
    teacher_steps: int = option(25, "Steps of the base that it is held against.", ge=1, le=1000)


class JudgeOptions(Options):
    """Who judges."""

    panel: ClassVar[str] = "Judges"

    features: str = common("judge", "Whose features: `judge` (bundled), or a Hub id or folder (DINO, CLIP).", "NAME")
    clip: str = option("", "A CLIP model by Hub id or folder: its score of pictures and texts.", "NAME")
    world: bool = option(False, "Let the bundled judges say what they see: they know the bundled base's world alone.")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(
        JudgeOptions, PromptOptions, ConceptOptions, ConditionOptions, FewStepOptions, DrawingOptions, Options
    ):
        """Options of `tuner evaluate`."""

        panel: ClassVar[str] = "Options"
        elsewhere: ClassVar[Mapping[str, str]] = {
            **ELSEWHERE, "lora": "adapter", "reference": "against", "ref": "against", "real": "against",
            "num_images": "count", "n_samples": "count", "prompt_file": "prompts", "prompts_file": "prompts",
            "guidance_scale": "guidance", "num_inference_steps": "steps", "model": "base", "controlnet": "control",
            "t2i_adapter": "control", "preprocessor": "condition", "control_condition": "condition",
        }  # fmt: skip

        run: list[str] = argument("A run's folder, or its name.", "RUN")
        base: str = common("", "The base; by default the run's, else emoji (bundled).", "BASE")
        adapter: list[str] = common([], "Adapter to judge, at a weight (1); may be repeated.", "FILE[:WEIGHT]")
        control: str = common("", "Control network to judge, at a weight (1), on --adapter's.", "DIR[:WEIGHT]")
        pictures: str = common("", "Folder of finished pictures to judge.", "DIR")
        against: str = common("", "What to hold it against: a base, or a folder of pictures.", "BASE_OR_DIR")
        paired: bool = option(False, "Insist on pairs: pictures of the same names and sizes in both folders.")
        suite: str = common("", "What to look for; by default what suits the run.", "NAME")
        compare: list[str] = common([], "An earlier report to set beside this one; may be repeated.", "REPORT")
        count: int = common(4, "Pictures of each prompt.", ge=1)
        seed: int = common(0, "Seed of the first picture of each prompt.", ge=0, lt=2**62)
        out: str = common("", "Folder of the report; by default in the run's, else report, report-2, ...", "DIR")
        json: bool = common(False, "Print the report as JSON.")  # type: ignore[assignment]
        quiet: bool = common(False, "No progress bar; a plain line now and then.")


def check(config: Config) -> None:
    """Raises RequestError where options do not fit together."""
    subjects = [bool(config.run), bool(config.adapter or config.control), bool(config.pictures)]
    wrong = {
        f"tuner evaluate judges one run at a time, not {len(config.run)}; --compare sets their reports side by side": (
            len(config.run) > 1
        ),
        "A run, --adapter or --control, and --pictures are things to judge by themselves; name one of them": (
            sum(subjects) > 1
        ),
        "tuner evaluate needs something to judge: a run's folder, --adapter FILE, --control DIR, --pictures DIR or "
        "--base BASE": not any(subjects) and not config.base and len(config.compare) < 2,
        "--concept and --style name what --suite merge looks for; leave --suite out, or them": (
            (config.concept or config.style) and config.suite not in ("", "merge")
        ),
        "--pictures needs pictures to be held against; name their folder by --against, or prompts by --prompts": (
            config.pictures and not (config.against or config.prompts or config.suite)
        ),
    }  # fmt: skip
    for sentence, holds in wrong.items():
        if holds:
            raise RequestError(f"{sentence}.")
