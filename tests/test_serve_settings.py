"""The settings of the service: the file that --init writes, and what is said of a wrong one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from ich.schema import UserError
from ich.serve.settings import Settings, read_settings, write_settings

NEEDED = "bundle: a\nfolder: b\n"


def test_the_written_file_has_all_defaults_and_explains_each(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    write_settings(path, "model.zip", "/data/ich")
    assert read_settings(path) == Settings("model.zip", "/data/ich")
    lines = path.read_text(encoding="utf-8").splitlines()
    for before, line in pairwise(lines):
        assert "#" in (line.lstrip()[0], before.lstrip()[0]), line
    with pytest.raises(UserError, match="exists; remove it"):
        write_settings(path, "model.zip", "/data/ich")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bundle: a", "the setting folder is missing"),
        (f"{NEEDED}receive: {{prt: 1}}", "the setting receive.prt is unknown; known are ae_title, host"),
        (f"{NEEDED}receive: {{port: 70000}}", "receive.port=70000; expected a port from 1 to 65535"),
        ("bundle: a\nfolder: 2020-01-01", "holds a value that settings cannot have"),
        (f"{NEEDED}mode: 640", 'mode=640; expected permissions in quotes, such as "640"'),
        (f"{NEEDED}mode: '777'", "mode='777'; expected permissions in quotes"),
        ("bundle: [", "is not valid YAML"),
        ("- 1", r"\[1\]; expected an object"),
        (f"{NEEDED}send: [{{name: a b, kind: stow, address: x}}]", "send.0.name='a b'; expected a name"),
    ],
)
def test_a_wrong_file_is_named_with_its_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_settings(path)
    with pytest.raises(UserError, match=r"gone\.yaml cannot be read: No such file"):
        read_settings(tmp_path / "gone.yaml")
