"""Files that somebody made to do harm, by kind, and the readers that meet them. As a program: opens all of one kind.

A maker gets a folder and gives a path; a reader must raise StaleArtifactError for it. `python hostile_files.py KIND
FOLDER` opens every file of a kind and prints what came of each, with the most memory that the process took.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]

import h5py
import numpy as np
import torch
from builders import CLIP, noise_video, write_frames
from target_stores import make_store

from pipeline.core.digest import digest_bytes, digest_json, with_digest
from pipeline.core.errors import StaleArtifactError
from pipeline.core.weights import is_model_file, load_weights, read_tensors, save_weights
from pipeline.data.frame_store import FrameStore
from pipeline.distill.store.store import SoftTargetStore
from pipeline.enhance.file import load_enhancer
from pipeline.models.pretrained import read_pretrained
from pipeline.models.recognizer import load_model

SECRET = "the content of a file that nobody named"
DEEP = 100_000 * "[" + 100_000 * "]"


class Canary:
    """Leaves a folder behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# weights


def _safetensors(header, content=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + content


def _ours(text):
    return {"__metadata__": {"dlkdd": text}, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def _described(attributes, tensors=None):
    def write(path):
        save_weights(path, tensors or {}, attributes)

    return write


def _model(**changes):
    architecture = {"name": "r2plus1d_slim", "num_classes": 3, "clip": CLIP.model_dump(), "width": 4, "dropout": 0.0}
    values = {"format": "dlkdd-model", "format_version": 2, "class_names": ["a", "b", "c"], "trained_on": {}}
    return {**values, "architecture": {**architecture, "drop_path": 0.0}, **changes}


def _zip_of_a_zip(path):
    inner = path.with_suffix(".inner")
    torch.save({"a": Canary(path.parent / "canary")}, inner)
    with zipfile.ZipFile(path, "w") as outer:
        outer.write(inner, "archive/data.pkl")


WEIGHTS = {
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"a": Canary(path.parent / "canary")}, protocol=2)),
    "what torch.save made of code": lambda path: torch.save({"a": Canary(path.parent / "canary")}, path),
    "a zip in a zip": _zip_of_a_zip,
    "a header of 2^63 bytes": lambda path: path.write_bytes(_safetensors({}, length=1 << 63)),
    "a header longer than the file": lambda path: path.write_bytes(_safetensors({}, length=90_000_000)),
    "tensors over each other": lambda path: path.write_bytes(
        _safetensors({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8))
    ),
    "a tensor behind the end": lambda path: path.write_bytes(
        _safetensors({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, bytes(8))
    ),
    "a shape that overflows": lambda path: path.write_bytes(
        _safetensors({"a": {"dtype": "F32", "shape": [1 << 62, 16], "data_offsets": [0, 8]}}, bytes(8))
    ),
    "half of a character": lambda path: path.write_bytes(_safetensors(b'{"__metadata__":{"dlkdd":"\xff\xc3"}}')),
    "half of a surrogate": lambda path: path.write_bytes(
        _safetensors(_ours('{"attributes": {"a": "\\ud800"}, "attributes_digest": "", "tensors_digest": ""}'), bytes(4))
    ),
    "attributes in 100,000 lists": lambda path: path.write_bytes(_safetensors(_ours(DEEP), bytes(4))),
    "attributes that are a list": lambda path: path.write_bytes(
        _safetensors(
            _ours(json.dumps({"attributes": [], "attributes_digest": digest_json([]), "tensors_digest": ""})), bytes(4)
        )
    ),
    "a number of 5,000 digits": lambda path: path.write_bytes(_safetensors(_ours(5000 * "9"), bytes(4))),
    "numbers that are none": lambda path: path.write_bytes(
        _safetensors(_ours('{"attributes": {"a": NaN}, "attributes_digest": "", "tensors_digest": ""}'), bytes(4))
    ),
    "100,000 tensors": lambda path: path.write_bytes(
        _safetensors({f"{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)})
    ),
    "a model without a format": _described({}),
    "a model of 10^9 classes": _described(_model(architecture={**_model()["architecture"], "num_classes": 10**9})),
    "a model of a width of 10^7": _described(_model(architecture={**_model()["architecture"], "width": 10**7})),
    "a model whose name is a list": _described(_model(architecture={**_model()["architecture"], "name": ["a"]})),
    "a model with other fields": _described(_model(architecture={"name": "r2plus1d_slim", "code": "print()"})),
    "a model without architecture": _described({"format": "dlkdd-model", "format_version": 2}),
    "class names that are numbers": _described(_model(class_names=[1, 2, 3])),
    "a clip of 10^12 frames": _described(
        _model(architecture={**_model()["architecture"], "clip": {**CLIP.model_dump(), "num_frames": 10**12}})
    ),
    "an enhancer of that name": _described(
        {"format": "dlkdd enhancer", "format_version": 2, "enhancer": "os.system", "parameters": {}, "fitted_on": {}}
    ),
    "an enhancer of other parameters": _described(
        {"format": "dlkdd enhancer", "format_version": 2, "enhancer": "gamma", "parameters": [1], "fitted_on": {}}
    ),
}


def read_weights(path):
    """Every reader of weights in turn; a file of ours reaches those that take it apart."""
    refused = 0
    for read in (load_weights, load_model, load_enhancer):
        try:
            read(path)
        except StaleArtifactError:
            refused += 1
    as_torch = path.with_suffix(".pth")
    shutil.copyfile(path, as_torch)
    for read in (
        lambda: read_pretrained(str(path), "r2plus1d_slim"),
        lambda: read_tensors(as_torch, parameter="weights"),
        lambda: is_model_file(path),
    ):
        try:
            read()
        except StaleArtifactError:
            refused += 1
    if refused < 2:
        raise AssertionError(f"{path} was read as a model or an enhancer")
    raise StaleArtifactError(f"{refused} readers refused it")


# frame stores


def _shard(change):
    def write(path):
        write_frames(path, {"a": noise_video("a", (4, 8, 8))}, num_shards=1)
        secret = path.parent / "secret"
        secret.write_text(SECRET)
        with h5py.File(path.parent / "secret.h5", "w") as file:
            file["000000"] = noise_video("b", (4, 8, 8))
        with h5py.File(path / "shard-000.h5", "r+") as file:
            change(file, secret)

    return write


def _replaced(name, make):
    def change(file, secret):
        del file[name]
        make(file, name, secret)

    return _shard(change)


def _external_data(file, name, secret):
    file.create_dataset(name, (4, 8, 8, 3), "u1", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def _virtual(file, name, secret):
    layout = h5py.VirtualLayout((4, 8, 8, 3), "u1")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "000000", (4, 8, 8, 3))
    file.create_virtual_dataset(name, layout)


def _unknown_filter(file, name, _secret):
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((4, 8, 8, 3))
    made.set_filter(65_000, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((4, 8, 8, 3))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_UINT8, space, made)


def _description(**changes):
    def write(path):
        write_frames(path, {"a": noise_video("a", (4, 8, 8))}, num_shards=1)
        described = path / "store.json"
        values = json.loads(described.read_text())
        del values["digest"]
        index = changes.pop("index", None)
        if index is not None:
            (path / "index.csv").write_bytes(index)
            values["index_digest"] = digest_bytes(index)
        described.write_text(json.dumps(with_digest({**values, **changes})))
        if index is not None:
            changes["index"] = index

    return write


def _json_of(text):
    def write(path):
        write_frames(path, {"a": noise_video("a", (4, 8, 8))}, num_shards=1)
        (path / "store.json").write_text(text)

    return write


INDEX = b"video_id,shard,row,frames,height,width,digest\n"
FRAMES = {
    "frames by a link to another file": _replaced(
        "000000", lambda file, name, secret: file.__setitem__(name, h5py.ExternalLink("../secret.h5", "000000"))
    ),
    "a table by a link to another file": _replaced(
        "video_id", lambda file, name, secret: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "x"))
    ),
    "a link to itself": _replaced("frames", lambda file, name, _: file.__setitem__(name, h5py.SoftLink("/frames"))),
    "frames stored in another file": _replaced("000000", _external_data),
    "frames of a virtual dataset": _replaced("000000", _virtual),
    "a filter that nobody has": _replaced("000000", _unknown_filter),
    "ids that are objects": _replaced(
        "video_id", lambda file, name, _: file.create_dataset(name, data=["a"], dtype=h5py.string_dtype())
    ),
    "references": _replaced(
        "frames", lambda file, name, _: file.create_dataset(name, data=[file.ref], dtype=h5py.ref_dtype)
    ),
    "lists of any length": _replaced(
        "frame_end", lambda file, name, _: file.create_dataset(name, (4,), dtype=h5py.vlen_dtype(np.int64))
    ),
    "a compound type": _replaced(
        "crc32c", lambda file, name, _: file.create_dataset(name, (4,), dtype=[("a", "u4"), ("b", "f8")])
    ),
    "10^12 frames that are not there": _replaced(
        "frame_end", lambda file, name, _: file.create_dataset(name, (10**12,), "i8", chunks=(1024,), fillvalue=1)
    ),
    "10^12 ids that are not there": _replaced(
        "video_id", lambda file, name, _: file.create_dataset(name, (10**12,), "S8")
    ),
    "a group": _replaced("000000", lambda file, name, _: file.create_group(name)),
    "another type of pixels": _replaced(
        "000000", lambda file, name, _: file.create_dataset(name, data=np.zeros((4, 8, 8, 3)))
    ),
    "no attributes": _shard(lambda file, _: file.attrs.clear()),
    "an index of 10^12 frames": _description(index=INDEX + b"a,0,0,1000000000000,8,8,00\n"),
    "an index of frames of 10^6 by 10^6 pixels": _description(index=INDEX + b"a,0,0,4,1000000,1000000,00\n"),
    "an index of less than nothing": _description(index=INDEX + b"a,-1,-7,4,8,8,00\n"),
    "an index of words": _description(index=INDEX + b"a,x,y,z,8,8,00\n"),
    "an index of other columns": _description(index=INDEX + b"a\n"),
    "an index without a line": _description(index=b""),
    "an index of half characters": _description(index=INDEX + b"\xff,0,0,4,8,8,00\n"),
    "an index of another file's shard": _description(index=INDEX + b"a,../../secret,0,4,8,8,00\n"),
    "a codec that is a list": _description(codec=["raw"]),
    "an origin that is a text": _description(origin="x"),
    "a description in 100,000 lists": _json_of(DEEP),
    "a description of NaN": _json_of('{"format": "dlkdd frame store", "format_version": NaN}'),
    "a number of 5,000 digits": _json_of('{"format": "dlkdd frame store", "format_version": ' + 5000 * "9" + "}"),
}


def read_frames(path):
    """All frames of a store."""
    store = FrameStore(path)
    for video_id in store.video_ids:
        store.read(video_id, range(min(store.shape(video_id)[0], 8)))
    store.verify()


# soft-target stores


def _store(change):
    def write(path):
        template = path.parent / "template.zarr"
        if not template.exists():
            made = make_store(path.parent / "made")
            shutil.copytree(made.path, template)
        shutil.copytree(template, path)
        change(path)

    return write


def _group(change):
    """A store with other attributes, and the digest of these."""

    def write(path):
        described = json.loads((path / "zarr.json").read_text())
        attributes = described["attributes"]
        del attributes["attributes_digest"]
        change(attributes)
        attributes["attributes_digest"] = digest_json(attributes)
        (path / "zarr.json").write_text(json.dumps(described))

    return _store(write)


def _array(change, name="logits"):
    def write(path):
        described = json.loads((path / name / "zarr.json").read_text())
        change(described)
        (path / name / "zarr.json").write_text(json.dumps(described))

    return _store(write)


def _consolidated(path):
    described = json.loads((path / "zarr.json").read_text())
    logits = json.loads((path / "logits/zarr.json").read_text())
    logits["shape"][0] = 10**12
    described["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {"logits": logits}}
    (path / "zarr.json").write_text(json.dumps(described))


def _linked(path):
    secret = path.parent / "secret"
    secret.write_text(SECRET)
    shard = next(file for file in (path / "logits/c").rglob("*") if file.is_file())
    shard.unlink()
    shard.symlink_to(secret)


def _text(text):
    return _store(lambda path: (path / "zarr.json").write_text(text))


TARGETS = {
    "10^12 rows": _group(lambda it: it.update(num_rows=10**12)),
    "10^9 views": _group(lambda it: it.update(num_views=10**9)),
    "10^6 views": _group(lambda it: it.update(num_views=10**6)),
    "10^9 teachers": _group(lambda it: it.update(num_teachers=10**9)),
    "less than no rows": _group(lambda it: it.update(num_rows=-1)),
    "rows that are a text": _group(lambda it: it.update(num_rows="7")),
    "blends that are not there": _group(lambda it: it["view_policy"].update(mix="cutmix")),
    "views mixed in a way that nobody knows": _group(lambda it: it["view_policy"].update(mix=["mixup"])),
    "shards that are numbers": _group(lambda it: it.update(shards=[1])),
    "no shards": _group(lambda it: it.update(shards=[])),
    "a codec of another name": _group(lambda it: it.update(codec={"name": "pickle"})),
    "class names that are lists": _group(lambda it: it.update(class_names=[["a"], [], []])),
    "teachers that are texts": _group(lambda it: it.update(teachers=["x"])),
    "digests that are a list": _group(lambda it: it.update(digests=[])),
    "an array of objects": _array(lambda it: it.update(data_type="object")),
    "a codec that unpickles": _array(lambda it: it["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})),
    "a codec that nobody has": _array(lambda it: it["codecs"].append({"name": "evil", "configuration": {}})),
    "an array of 10^12 rows": _array(lambda it: it["shape"].__setitem__(0, 10**12)),
    "chunks of 10^9 rows": _array(lambda it: it["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(0, 10**9)),
    "ids of another type": _array(lambda it: it.update(data_type="float64", fill_value=0), "video_id"),
    "keys out of the store": _array(
        lambda it: it.update(chunk_key_encoding={"name": "default", "configuration": {"separator": "../"}})
    ),
    "other consolidated metadata": _store(_consolidated),
    "a shard that is a link to another file": _store(_linked),
    "attributes in 100,000 lists": _text('{"zarr_format": 3, "node_type": "group", "attributes": ' + DEEP + "}"),
    "attributes of NaN": _text('{"zarr_format": 3, "node_type": "group", "attributes": {"format_version": NaN}}'),
    "a number of 5,000 digits": _text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"a": ' + 5000 * "9" + "}}"
    ),
    "an array in place of the group": _text(json.dumps({"zarr_format": 3, "node_type": "array"})),
}


def read_targets(path):
    """All rows of a store."""
    store = SoftTargetStore(path)
    for shard in range(store.num_shards):
        store.read_shard(shard)


KINDS = {
    "weights": (WEIGHTS, read_weights, ".safetensors"),
    "frames": (FRAMES, read_frames, ""),
    "targets": (TARGETS, read_targets, ".zarr"),
}


def main(kind, folder):
    """Open every file of a kind; prints JSON."""
    makers, read, suffix = KINDS[kind]
    outcomes = {}
    for number, (name, make) in enumerate(makers.items()):
        path = Path(folder) / f"hostile_{number}{suffix}"
        make(path)
        try:
            read(path)
            outcomes[name] = "was read"
        except StaleArtifactError as error:
            outcomes[name] = f"refused: {error}"
        except BaseException as error:
            outcomes[name] = f"{type(error).__name__}: {error}"[:400]
    with Path("/proc/self/status").open() as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024
    print(json.dumps({"outcomes": outcomes, "peak_bytes": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
