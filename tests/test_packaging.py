"""The wheel holds all that tuner needs under one name, and works where it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]


def call(*arguments: object, cwd: Path, **variables: str) -> str:
    """Run Python with these arguments, without a network; what it printed."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked() -> list[str]:
    """The files of the checkout that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to know which files belong to it")
    folder = tmp_path_factory.mktemp("tree")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    call("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ".", cwd=tree)
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    call("-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as file:
        return {name for name in file.namelist() if not name.endswith("/")}


def test_only_tuner_is_at_the_top(wheel):
    tops = {name.split("/")[0] for name in names(wheel)}
    assert tops == {"tuner", *(top for top in tops if top.endswith(".dist-info"))}
    assert len(tops) == 2


def test_the_wheel_holds_every_file_that_is_used(wheel):
    wanted = {name for name in tracked() if name.startswith("tuner/")}
    wanted |= {f"tuner/{name}" for name in tracked() if name.startswith(("recipes/", "datasets/"))}
    assert {name for name in names(wheel) if name.startswith("tuner/")} == wanted
    assert "tuner/recipes/lora.py" in wanted
    assert "tuner/datasets/teddy_bear/01.png" in wanted


def test_the_source_archive_gives_the_same_wheel(tree, wheel, tmp_path):
    call("-m", "build", "--no-isolation", "--outdir", tmp_path, ".", cwd=tree)
    (other,) = tmp_path.glob("*.whl")
    assert len(list(tmp_path.glob("*.tar.gz"))) == 1
    assert names(other) == names(wheel)


def test_the_installed_copy_stands_alone(installed, tmp_path):
    where = "import tuner, tuner.places as p; print(tuner.__file__, p.place('recipes'), p.place('datasets'))"
    found = call("-c", where, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert found == [str(installed / "tuner" / name) for name in ("__init__.py", "recipes", "datasets")]
    assert "lora" in call("-m", "tuner", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert (installed / "bin" / "tuner").is_file()


def test_the_installed_copy_runs_the_main_job(installed, tmp_path):
    pictures = installed / "tuner" / "datasets" / "teddy_bear"
    run = tmp_path / "run"
    options = ["--images", pictures, "--class-prompt", "a cat", "--steps", 2, "--out", run, "--quiet"]
    call("-m", "tuner", "lora", *options, cwd=tmp_path, PYTHONPATH=str(installed))
    assert (run / "teddy_bear.safetensors").stat().st_size > 0
    assert (run / "diffusers" / "pytorch_lora_weights.safetensors").stat().st_size > 0
