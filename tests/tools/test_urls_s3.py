"""The same at a bucket, of moto's server: what is published there is a store, and a model is fetched from there."""

from __future__ import annotations

import fsspec
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from target_stores import contents, make_store

from pipeline.core.errors import EnvironmentProblem, ParamsError
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.card import publish_store
from pipeline.tools.targets.verify import verify
from pipeline.tools.urls import local_file, put_folder

pytest.importorskip("s3fs", reason="of the dev extra")
moto_server = pytest.importorskip("moto.server", reason="of the dev extra")

MARKER = "soft_targets.zarr/zarr.json"
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning"  # botocore, from Python 3.12 on
)


@pytest.fixture(scope="module")
def bucket():
    """The URL of a bucket; keys and address are where s3fs looks for them."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "test")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patched.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").mkdir("soft-targets")
        yield "s3://soft-targets"
    server.stop()


def test_a_store_goes_to_a_bucket_and_is_read_from_there(bucket, tmp_path):
    made = make_store(tmp_path)
    publish_store(made.path, tmp_path / "published", license_text=None)
    for force in (False, True):
        put_folder(tmp_path / "published", f"{bucket}/of/the/demo", marker=MARKER, force=force)
        files = fsspec.filesystem("s3")
        root = "soft-targets/of/the/demo"
        found = {name.removeprefix(f"{root}/"): files.cat_file(name) for name in files.find(root)}
        assert found == contents(tmp_path / "published")
    url = f"{bucket}/of/the/demo/soft_targets.zarr"
    assert SoftTargetStore(url).digest == SoftTargetStore(made.path).digest
    assert verify(url, "checksums").whole
    with pytest.raises(ParamsError, match="already exists"):
        put_folder(tmp_path / "published", f"{bucket}/of/the/demo", marker=MARKER, force=False)


def test_a_model_comes_from_a_bucket(bucket, tmp_path):
    local_file.cache_clear()
    (tmp_path / "student.safetensors").write_bytes(b"weights" * 1000)
    fsspec.filesystem("s3").put_file(str(tmp_path / "student.safetensors"), "soft-targets/models/student.safetensors")
    assert local_file(f"{bucket}/models/student.safetensors").read_bytes() == b"weights" * 1000
    with pytest.raises(EnvironmentProblem, match="cannot be fetched"):
        local_file(f"{bucket}/models/gone.safetensors")


def test_a_bucket_that_does_not_exist(bucket, tmp_path):
    (tmp_path / "a").write_text("a")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        put_folder(tmp_path, "s3://Not A Bucket/x", marker="a", force=False)
