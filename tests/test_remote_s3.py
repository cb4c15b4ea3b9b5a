"""Data in S3, with moto's server on this machine. It needs s3fs and moto, which few environments have."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import run_program
from remotes import assert_same_batches, make, upload

from ich.data.sharding import collect_slices, write_shards
from ich.index import build_index
from ich.remote import RemotePath
from ich.schema import UserError

pytest.importorskip("s3fs", reason="pip install 'ich[remote]'")
moto_server = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")

# Of moto, Flask and botocore, and of connections that s3fs leaves open.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def bucket() -> Iterator[RemotePath]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            import s3fs

            s3fs.S3FileSystem().mkdir("ich")
            yield RemotePath("s3://ich")
        finally:
            server.stop()


@pytest.fixture(scope="module")
def few(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some slices of each of six patients."""
    root, table = tmp_path_factory.mktemp("few") / "set", build_index(phantom).table
    six = table[table["PatientID"].isin(table["PatientID"].unique()[:6])]
    (root / "stage_2_train").mkdir(parents=True)
    for path in six.groupby("PatientID").head(8)["path"]:
        shutil.copy2(phantom / path, root / path)
    shutil.copy2(phantom / "stage_2_train.csv", root)
    return root


def test_files_and_shards_in_s3_give_the_batches_of_the_disk(
    bucket: RemotePath, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(few, bucket / "set")
    here = make(few)
    assert_same_batches(make(bucket / "set"), here)
    write_shards(collect_slices(bucket / "set"), bucket / "shards", chunk_bytes=100_000, workers=2)
    assert_same_batches(make(bucket / "shards", shards=True), here)
    with pytest.raises(UserError, match="holds files that are not shards"):
        write_shards(collect_slices(few), bucket / "set")


def test_a_bucket_that_does_not_exist_is_explained(bucket: RemotePath) -> None:
    with pytest.raises(UserError, match=r"data.root=s3://none/set: there is no such bucket, folder or file"):
        make("s3://none/set")


_FORKS = """
import os, sys
from ich.remote import parse_path
path = parse_path(sys.argv[1])
path.write_bytes(b"parent")
assert path.read_bytes() == b"parent"
if (child := os.fork()) == 0:
    os._exit(0 if path.read_bytes(1, 3) == b"ar" else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_connects_itself(bucket: RemotePath) -> None:
    done = run_program(_FORKS, str(bucket / "file"))
    assert done.returncode == 0, done.stderr
