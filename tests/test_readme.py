"""What the README and the pages in docs/ promise, taken from these texts themselves."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from ich.train.command import VERSION_BASE
from ich.train.signatures import register_signatures

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
COMMANDS = sorted(
    {
        command
        for text in PAGES.values()
        for command in re.findall(
            r"^(?:python train\.py|ich train)\b[^\n#]*", re.sub(r"\\\n\s*", "", text), re.MULTILINE
        )
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command: str) -> None:
    words = [word for word in shlex.split(command.strip())[2:] if word != "-m"]
    if "sweep=optuna" in words:  # its sweeper wants an environment of its own
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    # A sweep's values are Hydra's to expand, intervals its sweeper's. Each value must be one that there is.
    words = [word for word in words if "(" not in word or "[" in word]
    words = [word if set("[{") & set(word) else word.split(",")[0] for word in words]
    register_signatures()
    with initialize_config_dir(str(REPOSITORY / "conf"), **VERSION_BASE):
        compose("config", overrides=words)


def list_python(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page, text in PAGES.items() if list_python(text)], ids=lambda p: p.name
)
def test_python_is_python(page: Path) -> None:
    for block in list_python(PAGES[page]):
        compile(block, str(page), "exec")


RUNNING = ("library.md", "own_parts.md", "predict.md", "api_examples.md")
"""Pages whose examples run, one after another in one program."""


@pytest.mark.trains
def test_library_examples_run(
    tmp_path: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training, looping, loading, own, prediction, *public = (
        block for page in RUNNING for block in list_python(PAGES[REPOSITORY / "docs" / page])
    )
    prediction = prediction.replace("runs/DATE_TIME", "runs/mine").replace("/data/inbox", "data/phantom")
    slices = "import numpy\nslices = [numpy.full((64, 64), 40)] * 3\n"
    code = f"{training}{looping}{loading}{own}{slices}{prediction}print(scores.probs.shape)\n"
    code += "".join(public)
    shutil.copytree(phantom, tmp_path / "data" / "phantom")
    script = tmp_path / "example.py"
    code = code.replace('"resnet18"', '"test_resnet"').replace(
        "batch_size=32", "batch_size=32, num_workers=0"
    )
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert float(re.findall(r"tensor\((.*?)[,)]", printed)[0]) > 0
    assert [float(loss) > 0 for loss in re.findall(r"^loop (.*)$", printed, re.MULTILINE)] == [True, True]
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "best.ckpt").is_file()
    assert float(re.findall(r"^own (.*)$", printed, re.MULTILINE)[0]) > 0
    assert printed.count("INDETERMINATE") > 1
    assert "(1, 3, 6)" in printed
    assert (tmp_path / "site" / "model.zip").is_file()
    assert {"mine.onnx", "explored", "evaluated", "submission.csv"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_ci_runs_the_commands_that_it_begins_with() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    run = re.sub(r" (?:--quiet|-q)(?= |$)", "", script, flags=re.MULTILINE).splitlines()
    blocks = re.findall(r"```sh\n(pip install .*?)```", README, re.DOTALL)
    commands = [part.strip() for line in blocks[:2] for part in line.partition("#")[0].split("&&")]
    assert len(commands) == 4
    places = [run.index(command) for command in commands]
    assert places == sorted(places)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_and_pictures_that_it_names_are_there(page: Path) -> None:
    for path in re.findall(r"\]\(((?!http|#)[^)#]+)", PAGES[page]):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"`((?:ich|examples|benchmarks|conf)/[\w./]+)`", PAGES[page]):
        assert (REPOSITORY / path).exists(), path
