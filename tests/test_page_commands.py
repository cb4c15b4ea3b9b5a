"""The commands on the pages: each is run here, composed or parsed, or says what it needs.

`tests/test_readme.py` composes those that train.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from command import call

import ich.cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}

RUNS = (
    "python train.py run_dir=runs/phantom",
    "ich predict runs/phantom data/phantom --out results --write page",
    "ich evaluate runs/mine/predictions_test.csv",
    "ich explain runs/DATE_TIME data/phantom --label any subdural --out explained",
    "ich predict model.zip /data/inbox --out results --write page sr sc",
    'ich recalibrate model.zip /data/local --labels local.csv --site "Hospital A" --out site',
    "ich predict site/model.zip /data/inbox",
)
"""Commands of the pages that run here, in this order, on a small phantom."""

PLACES = {
    "/data/inbox": "data/phantom",
    "/data/local": "data/phantom",
    "runs/DATE_TIME": "runs/phantom",
    "runs/mine": "runs/phantom",
}
"""What takes the place of a reader's folders."""

ELSEWHERE = {
    "pip install -e .": ".ci/run",
    "ich doctor": "tests/test_doctor.py",
    "ich evaluate runs/phantom": "tests/test_cli_evaluate.py",
    "pip install -e '.[test]' && pytest -n auto": ".ci/run",
    "bash .ci/": ".github/workflows/ci.yml",
    "ich demo": "tests/test_demo.py",
    "ich predict demo/model.zip": "tests/test_demo.py",
    "docker compose -f deploy/compose.yaml run": ".github/workflows/ci.yml",
    "docker compose -f deploy/compose.yaml up": ".ci/first_try.py",
    "docker exec ich python -m pynetdicom storescu": "tests/test_serve_receive.py",
    "docker exec -it ich ich serve": ".ci/first_try.py",
    "ich serve": "tests/test_serve_command.py",
    "pip install 'ich[serve,codecs]'": "deploy/Containerfile",
    "storescu": "tests/test_serve_receive.py",
    "ich phantom data/archive --archive": "tests/test_archive.py",
    "ich doctor --tune": "tests/test_engines.py",
    "ich predict model.zip /data/inbox --engine": "tests/test_engines.py",
    "ich explore /data/ct": "tests/test_explore.py",
    "ich export model.zip": "tests/test_export.py",
    "ich export runs/DATE_TIME": "tests/test_export.py",
    "ich predict model.zip /data/inbox --out results": "tests/test_predict.py",
    "ich predict model.zip --watch": "tests/test_predict_watch.py",
    "ich generate": "tests/test_generate.py",
    "ich import": "tests/test_import.py",
    "ich bundle": "tests/test_bundle.py",
    "ich evaluate runs/mine/predictions_test.csv --root": "tests/test_evaluation_report.py",
    "ich evaluate runs/a": "tests/test_cli_evaluate.py",
    "ich predict a.zip b.zip": "tests/test_predict.py",
    "ich predict runs/phantom data/archive": "tests/test_archive.py",
    "ich predict runs/folds": "tests/test_train_folds.py",
    "ich predict runs/DATE_TIME /data/inbox --trust": "tests/test_own_backbone.py",
    "ich recalibrate model.zip /data/ich/inbox": "tests/test_serve_web.py",
    "python examples/ct_ich_to_rsna.py": "tests/test_examples.py",
}
"""The begin of other commands, and what runs the like of them."""

COMPOSED = re.compile(r"(?:python train\.py|ich train|HF_HUB_OFFLINE=1 python train\.py)\b")
NEEDS = re.compile(r"# needs \w+")
"""A comment in a block of commands that none of this runs: what the reader must have."""


def list_blocks(text: str) -> list[list[str]]:
    """The blocks of shell commands of a page, a line each, without comments at the end of a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    joined = [re.sub(r"\\\n\s*", "", block).splitlines() for block in blocks]
    return [[re.sub(r"\s+#\s.*$", "", line).strip() for line in lines if line.strip()] for lines in joined]


BLOCKS = [(page, block) for page, text in PAGES.items() for block in list_blocks(text)]
LINES = {line for _, block in BLOCKS for line in block}


@pytest.mark.parametrize("page", sorted({page for page, _ in BLOCKS}))
def test_a_command_is_run_or_says_what_it_needs(page: str) -> None:
    for found, block in BLOCKS:
        if found != page or any(NEEDS.match(line) for line in block):
            continue
        for line in block:
            is_composed = COMPOSED.match(line) and "data.root=" not in line
            is_known = line in RUNS or is_composed or line.startswith(("#", *ELSEWHERE))
            assert is_known, (
                f"run it in {Path(__file__).name}, or put the line '# needs ...' before it: {line}"
            )


def test_what_runs_commands_is_there() -> None:
    for path in ELSEWHERE.values():
        assert (ROOT / path).is_file(), path
    for begin in ELSEWHERE:
        if not begin.startswith("bash"):
            assert any(line.startswith(begin) for line in LINES), f"no page has the command {begin}"
    assert set(RUNS) <= LINES


@pytest.mark.parametrize("line", sorted(line for line in LINES if re.match(r"ich (?!train\b)", line)))
def test_the_command_line_takes_it(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])[1:]
    ich.cli._make_parser(words).parse_args(words)


@pytest.mark.trains
def test_commands_run_as_they_stand_on_the_pages(
    phantom: Path, conformant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(phantom, tmp_path / "data" / "phantom")
    monkeypatch.chdir(tmp_path)
    slices = pd.read_csv(phantom / "stage_2_train.csv")
    slices.to_csv("local.csv", index=False)
    tiny = [
        *("data.phantom=null", "data.num_workers=0", "input.size=32", "model.backbone=test_resnet"),
        *("model.pretrained=false", "trainer.max_epochs=1", "trainer.gpus=0", "logger=csv"),
    ]
    for number, line in enumerate(RUNS):
        text = line
        for reader, ours in PLACES.items():
            text = text.replace(reader, ours)
        words = shlex.split(text)
        if words[0] == "python":
            assert call("train", *words[2:], *tiny) == 0
            assert call("bundle", "runs/phantom", "model.zip") == 0
            continue
        if "sr" in words:  # only complete headers make a DICOM report
            words = [str(conformant) if word == "data/phantom" else word for word in words]
        if "--out" in words and words[1] == "predict":
            words[words.index("--out") + 1] = f"results_{number}"
        assert call(*words[1:]) == 0, line
    assert list(Path("results_1", "pages").iterdir())
    assert list(Path("results_4", "dicom").rglob("*.dcm"))
    assert Path("site", "model.zip").is_file()
    assert Path("runs/phantom/evaluation/report.html").is_file()
