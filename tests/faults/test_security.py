"""What SECURITY.md claims of the code, the names in files, the releases, and the files that are written."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import h5py
import pytest
import yaml
from builders import CLASSES, one_thread, tiny_recognizer  # noqa: F401
from number_runs import make_data, noise, precompute, score, train, write_params
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from paths import ROOT
from target_stores import make_store

from pipeline.core.digest import digest_json, with_digest
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.params import load_params
from pipeline.core.weights import load_weights, save_weights
from pipeline.data.frame_store import FrameStore
from pipeline.distill.store.store import SoftTargetStore
from pipeline.enhance.classical import Gamma
from pipeline.enhance.file import load_enhancer, save_enhancer
from pipeline.models.recognizer import load_model, save_model
from pipeline.videos import decoder as decoding
from pipeline.videos.reader import write_video

SOURCES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])

# code from data


FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "imp"}
FORBIDDEN_CALLS = {  # as values too, which could be called by another name
    *("eval", "exec", "compile", "__import__", "globals", "os.system", "os.popen", "tempfile.mktemp"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.ops.load_library"),
}
NEW_PROCESSES = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output"}
TEMPORARY = {  # unpredictable, and for their owner alone
    *("tempfile.TemporaryFile", "tempfile.TemporaryDirectory", "tempfile.mkdtemp"),
}
BY_NAME = {"import_module", "importlib.import_module", "getattr", "setattr"}

# What the scan finds and is right: (file, code) → why
ALLOWED = {
    ("pipeline/core/weights.py", "import pickle"): "to name its exception",
    ("pipeline/data/manifest.py", "getattr(row, name)"): "three names that stand there",
    ("pipeline/report/page.py", "getattr(params, name)"): "the fields of Params",
    ("pipeline/report/page.py", "getattr(metrics.agreement_with_teacher, name)"): "names that stand there",
    ("pipeline/report/page.py", "getattr(metrics.kl_from_teacher, name)"): "names that stand there",
    ("pipeline/evaluate/metrics_file.py", "getattr(self, model)"): "its own fields",
    ("pipeline/tools/export/export.py", "getattr(torch, taken['dtype'])"): "uint8 or float32, as card.py writes it",
    ("pipeline/tools/export/export.py", "torch.export.load(file)"): "of the file that this process has just written",
    ("pipeline/models/networks.py", "getattr(video_models, arch.name)"): "a key of MODELS",
    ("pipeline/models/networks.py", "import_module(f'pytorchvideo.models.{module}')"): "from the table MODELS",
    ("pipeline/models/networks.py", "getattr(import_module(f'pytorchvideo.models.{module}'), builder)"): "from MODELS",
    ("pipeline/models/torchvision_compat.py", "torch.ops.load_library"): "of the installed torchvision",
    ("pipeline/models/torchvision_compat.py", "torch.ops.load_library(str(library))"): "of the installed torchvision",
    ("pipeline/tools/study/contrasts.py", "getattr(each, name)"): "its own fields",
    ("pipeline/tools/study/forks.py", "import runpy"): "for the module `stages`, which the study's own jobs name",
    ("pipeline/tools/study/results.py", "getattr(self, name)"): "its own fields",
    ("stages/__main__.py", "import_module(f'stages.{FAMILIES.get(name, name)}')"): "of a member of COMMANDS",
    ("pipeline/tools/targets/imported.py", "getattr(given, name)"): "three names that stand there",
    ("stages/__main__.py", "getattr(module, name)"): "a key of FAMILIES",
    ("stages/__main__.py", "getattr(self._stream, name)"): "what our own code asks of a stream",
}


def findings(source):
    """Code in a source text that takes code, classes or functions from data, or could."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if {name.partition(".")[0] for name in names} & FORBIDDEN_MODULES:
                found.append(ast.unparse(node))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN_CALLS:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and _is_open_to_data(node):
            found.append(ast.unparse(node))
    return found


def _is_open_to_data(call):
    name = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    constant = [isinstance(argument, ast.Constant) for argument in call.args]
    if name in FORBIDDEN_CALLS or (name.startswith("tempfile.") and name not in TEMPORARY):
        return True
    if name in ("torch.load", "torch.export.load"):
        return options.get("weights_only") != "True"
    if name in ("np.load", "numpy.load", "np.lib.format.read_array"):
        return options.get("allow_pickle", "False") != "False"
    if name.rpartition(".")[2] == "YAML":  # ruamel's
        return options.get("typ") != "'safe'"
    if name in NEW_PROCESSES:
        return options.get("shell", "False") != "False" or (bool(call.args) and isinstance(call.args[0], ast.JoinedStr))
    if name in BY_NAME:
        return not constant[0 if "import" in name else 1]
    return False


@pytest.mark.fault("Security", "code that would run, import or unpickle what a file says", "=")
def test_no_code_comes_from_data(cases):
    found = {(path.relative_to(ROOT).as_posix(), code) for path in SOURCES for code in findings(path.read_text())}
    assert sorted(found - ALLOWED.keys()) == []
    assert sorted(ALLOWED.keys() - found) == []  # an entry that allows nothing would hide the next one
    cases(len(SOURCES))


BAD = [
    "import pickle",
    "from marshal import loads",
    "eval(text)",
    "exec(text)",
    "compile(text, 'a', 'exec')",
    "__import__(name)",
    "os.system(command)",
    "run = os.system",
    "tempfile.mktemp()",
    "tempfile.NamedTemporaryFile(dir='/tmp', delete=False)",
    "yaml.load(text)",
    "yaml.load(text, Loader=yaml.UnsafeLoader)",
    "YAML()",
    "ruamel.yaml.YAML(typ='unsafe')",
    "YAML(typ=typ)",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "torch.load(path, weights_only=safe)",
    "torch.jit.load(path)",
    "torch.export.load(path)",
    "np.load(path, allow_pickle=True)",
    "subprocess.run(command, shell=True)",
    "subprocess.run(f'ls {path}')",
    "import_module(name)",
    "getattr(torch, name)",
    "setattr(self, name, value)",
]


@pytest.mark.fault("Security", "code that would run, import or unpickle what a file says", "=")
@pytest.mark.parametrize("code", BAD)
def test_the_scan_would_find_it(code):
    assert findings(f"def function():\n    {code}\n")


# names in files


HOSTILE = ("os.system", "builtins.eval", "__class__", "__init__", "canary.run", "canary:run", "../canary", "", "-h")
NAMES = pytest.mark.parametrize("name", HOSTILE)
FAULT = pytest.mark.fault("Security", "names in files that would be imported: os.system, ../x, __class__ …", "E")


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    """A module beside the files; whatever imports it by name is caught."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "canary.py").write_text("run = dict\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert "canary" not in sys.modules


@FAULT
@NAMES
@pytest.mark.parametrize("command", ["score-student", "predict", "bench", "export"])
def test_an_architecture_is_one_of_ours(tmp_path, call, command, name):
    if command == "score-student":
        make_data()
    write_params()
    path = tmp_path / "model.safetensors"
    save_model(path, tiny_recognizer(), class_names=CLASSES, trained_on={})
    tensors, attributes = load_weights(path)
    attributes["architecture"]["name"] = name
    save_weights(path, tensors, attributes)
    options = {
        "score-student": ["--model", path, "--manifest", "manifest.csv", "--frames", "dark", "--out", "out.csv"],
        "predict": ["video.mp4", "--model", path],
        "bench": [path],
        "export": [path, "--out", "out.pt2", "--format", "torch"],
    }
    code, _, err = call(command, *options[command])
    assert code == 5
    assert f"model.safetensors: unknown architecture {name!r}" in err


@FAULT
@NAMES
def test_an_enhancer_is_one_of_ours(tmp_path, name):
    path = tmp_path / "enhancer.safetensors"
    save_enhancer(path, Gamma(2.0), fitted_on={})
    tensors, attributes = load_weights(path)
    save_weights(path, tensors, {**attributes, "enhancer": name})
    with pytest.raises(StaleArtifactError, match="no usable enhancer"):
        load_enhancer(path)


@FAULT
@pytest.mark.parametrize("parameters", [{"__class__": "os.system"}, {"gamma": 2.0, "for_video": "canary.run"}])
def test_an_enhancers_parameters_are_its_own(tmp_path, parameters):
    path = tmp_path / "enhancer.safetensors"
    save_enhancer(path, Gamma(2.0), fitted_on={})
    tensors, attributes = load_weights(path)
    save_weights(path, tensors, {**attributes, "parameters": parameters})
    with pytest.raises(StaleArtifactError, match="no usable enhancer"):
        load_enhancer(path)


@FAULT
@NAMES
def test_a_codec_of_soft_targets_is_one_of_ours(tmp_path, name):
    made = make_store(tmp_path / "made")
    path = made.path / "zarr.json"
    described = json.loads(path.read_text())
    attributes = described["attributes"]
    del attributes["attributes_digest"]
    attributes["codec"] = {"name": name}
    attributes["attributes_digest"] = digest_json(attributes)
    path.write_text(json.dumps(described))
    with pytest.raises(StaleArtifactError, match="no codec is called"):
        SoftTargetStore(made.path)


@FAULT
@NAMES
def test_a_codec_of_frames_is_one_of_ours(tmp_path, name):
    make_data()
    (path,) = [path for path in Path("dark").glob("*.json") if "codec" in path.read_text()]
    values = {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"}
    path.write_text(json.dumps(with_digest({**values, "codec": name})))
    with pytest.raises(StaleArtifactError, match="it is not the description"):
        FrameStore(Path("dark"))


def texts(values, place=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from texts(value, (*place, key))
        elif isinstance(value, str) and key not in ("root", "lists", "weights"):  # paths
            yield (*place, key)


DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text())
PLACES = list(texts(DEFAULTS))


@FAULT
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_parameter_that_chooses_has_a_list_to_choose_from(tmp_path, place, cases):
    assert len(PLACES) > 15
    for name in HOSTILE:
        values = json.loads(json.dumps(DEFAULTS))
        section = values
        for key in place[:-1]:
            section = section[key]
        section[place[-1]] = name
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(ParamsError, match=place[-1]):
            load_params(tmp_path / "params.yaml")
    cases(len(HOSTILE))


@FAULT
@pytest.mark.parametrize("name", ["os.system", "__class__", "model_config", "canary.run", "../x"])
def test_a_parameter_has_one_of_our_names(tmp_path, name):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**DEFAULTS, name: "canary.run"}))
    with pytest.raises(ParamsError, match="is not a parameter"):
        load_params(tmp_path / "params.yaml")


@FAULT
@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "!!python/name:canary.run",
        "!!python/module:canary",
        "!!python/object/new:canary.run {}",
    ],
)
def test_tags_of_yaml_make_no_objects(tmp_path, text, call):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("seed: 0", f"seed: {text}"))
    assert text in (tmp_path / "params.yaml").read_text()
    with pytest.raises(ParamsError, match=r"params.yaml: not YAML"):
        load_params(tmp_path / "params.yaml")
    code, out, _ = call("check", "--params", "params.yaml")
    assert code == 2
    assert "not YAML" in out
    assert not Path("pwned").exists()


@FAULT
@pytest.mark.parametrize("name", ["os.system", "canary", "../canary", "__main__", "_shell", "score", "__init__"])
def test_a_command_is_one_of_ours(call, name):
    code, _, err = call(name)
    assert code == 2
    assert "No such command" in err


# releases


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in (
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
}
REQUIREMENTS = [
    Requirement(text)
    for text in chain(PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"].values())
    if not text.startswith("dlkdd[")
]
ADVISORIES = tomllib.loads((Path(__file__).parent / "known_bad_releases.toml").read_text())["advisory"]


def is_affected(version, advisory):
    """Commas mean `and` to packaging; of single releases, which all begin with ==, they mean `or`."""
    parts = advisory["affected"].split(",")
    ranges = parts if all(part.startswith("==") for part in parts) else [advisory["affected"]]
    return any(SpecifierSet(text).contains(version, prereleases=True) for text in ranges)


@pytest.mark.fault("Security", "dependencies that are not pinned, or pinned outside of what the package asks for", "=")
def test_every_direct_dependency_of_every_extra_is_pinned_within_its_range(cases):
    wrong = [
        f"{requirement}: pinned {PINS.get(canonicalize_name(requirement.name))}"
        for requirement in REQUIREMENTS
        if (pin := PINS.get(canonicalize_name(requirement.name))) is None or not requirement.specifier.contains(pin)
    ]
    assert wrong == []
    cases(len(REQUIREMENTS))


@pytest.mark.fault("Security", "an environment of other releases than the pins", "=")
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the pins are those of Python 3.11")
def test_what_is_installed_is_what_is_pinned(cases):
    installed = {canonicalize_name(each.metadata["Name"]): Version(each.version) for each in metadata.distributions()}
    others = {
        name: (str(pin), str(installed[name]))
        for name, pin in PINS.items()
        if name in installed and Version(installed[name].public) != pin  # torch's has the kind of build behind a +
    }
    assert others == {}
    needed = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    assert needed <= installed.keys()
    cases(len(PINS & installed.keys()))


@pytest.mark.fault("Security", "a pin that the first release of the lowest Python cannot install", "=")
def test_what_is_pinned_runs_on_the_first_release_of_the_lowest_python(cases):
    """A pin that asks for 3.11.5 cannot be installed on Debian 12, which has 3.11.2."""
    first = PYPROJECT["requires-python"].split(",")[0].removeprefix(">=") + ".0"
    needs = {
        each.metadata["Name"]: each.metadata["Requires-Python"]
        for each in metadata.distributions()
        if PINS.get(canonicalize_name(each.metadata["Name"])) == Version(Version(each.version).public)
        and "Requires-Python" in each.metadata
    }
    assert len(needs) > 100
    assert {name: need for name, need in needs.items() if first not in SpecifierSet(need)} == {}
    cases(len(needs))


@pytest.mark.fault("Security", "releases with a known advisory: pinned, installed, or admitted by a lower bound", "=")
@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda advisory: f"{advisory['package']} {advisory['id']}")
def test_no_release_is_known_to_be_bad(advisory):
    assert set(advisory) == {"package", "affected", "id", "source", "what"}
    name = canonicalize_name(advisory["package"])
    assert name not in PINS or not is_affected(PINS[name], advisory)
    for each in metadata.distributions(name=advisory["package"]):
        assert not is_affected(Version(Version(each.version).public), advisory)
    for requirement in REQUIREMENTS:
        if canonicalize_name(requirement.name) == name:
            (least,) = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
            assert not is_affected(Version(least), advisory), f"{requirement} admits it"


@pytest.mark.fault("Security", "releases with a known advisory: pinned, installed, or admitted by a lower bound", "=")
def test_the_hdf5_within_h5py_has_the_mends_of_2_0():
    """https://github.com/HDFGroup/hdf5/issues/5370 and its kind: heap overflows on crafted files."""
    assert h5py.version.hdf5_version_tuple >= (2, 0, 0)


# files


@pytest.mark.fault("Security", "files that others may write, or names in /tmp that they may guess", "=")
def test_no_source_names_a_place_in_tmp(cases):
    named = [
        (path.name, node.value)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and str(node.value).startswith(("/tmp", "/var/tmp"))
    ]
    assert named == []
    changing = ("chmod", "umask", "fchmod")
    calls = [
        (path.name, ast.unparse(node))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in changing
    ]
    assert calls == []
    cases(len(SOURCES))


@pytest.mark.fault("Security", "files that others may write, or names in /tmp that they may guess", "=")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_rights_that_their_owner_wants(tmp_path, umask, cases):
    before = os.umask(umask)
    try:
        make_data()
        write_params()
        train("teacher")
        precompute()
        train("student")
        score("student")
    finally:
        os.umask(before)
    written = [path for path in tmp_path.rglob("*") if path.name != "canary.py" and not path.is_symlink()]
    open_ones = [path for path in written if stat.S_IMODE(path.stat().st_mode) & umask]
    assert open_ones == []
    assert load_model(Path("student.safetensors"))
    cases(len(written))


# the process that decodes


@pytest.mark.fault("Security", "a decoder without limits", "=")
def test_the_process_that_decodes_has_its_limits(tmp_path):
    write_video(tmp_path / "a.mp4", noise("a"), fps=10)
    decoding.end_idle()  # what other tests left
    assert len(list(decoding.read_frames(tmp_path / "a.mp4"))) == len(noise("a"))
    (decoder,) = decoding._idle[os.getpid()]
    lines = Path(f"/proc/{decoder.process.pid}/limits").read_text().splitlines()[1:]
    limits = {line[:26].strip(): line[26:].split()[0] for line in lines}
    decoding.end_idle()
    assert limits["Max file size"] == limits["Max core file size"] == "0"
    assert int(limits["Max open files"]) == decoding.OPEN_FILES
    assert int(limits["Max cpu time"]) <= decoding.CPU_SECONDS + 10
    assert int(limits["Max address space"]) < 2 * decoding.MEMORY_BYTES


# SECURITY.md


@pytest.mark.fault("Security", "claims of SECURITY.md that no test shows", "=")
def test_every_test_that_the_page_names_is_there(cases):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    missing = [
        (path, name) for path, name in named if not re.search(rf"^def {name}", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []
    assert len(named) > 15
    cases(len(named))
