"""Artifacts have the same bytes whatever the version of Python and of zarr: stores are shared, and named by digest."""

from __future__ import annotations

import os
import subprocess

import artifact_bytes
import pytest
from paths import ROOT

# written alike by Python 3.11 with zarr 3.1.6, and by 3.12 and 3.13 with zarr 3.4.2
DIGESTS = {
    "float16.zarr": "953cd06097ccd57ef039fff1f9de6171",
    "frames": "e328db967bf1c383446a8f26ac416b69",
    "manifest.csv": "926f78acbacf6b76f43e98135e4eb860",
    "topk.zarr": "155e29fcc474ef3904504b6c00520324",
}


def test_artifacts_have_these_bytes(tmp_path):
    assert artifact_bytes.main(tmp_path) == DIGESTS


def test_another_python_writes_them_alike(tmp_path):
    """DLKDD_OTHER_PYTHON names one with zarr, h5py and what else is not torch."""
    other = os.environ.get("DLKDD_OTHER_PYTHON")
    if other is None:
        pytest.skip("DLKDD_OTHER_PYTHON names no other Python")
    command = [other, ROOT / "tests/helpers/artifact_bytes.py", tmp_path]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert artifact_bytes.json.loads(done.stdout) == DIGESTS
