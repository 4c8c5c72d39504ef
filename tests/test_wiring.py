"""dvc.yaml says what the code does: stages, parameters and code dependencies are compared with what is really used.

A stage depends on rooms, folders of pipeline/, and on its own shell; what each of them imports is worked out here.
"""

import ast
import json

import grimp
import pytest
import yaml
from clones import clone, run
from paths import ROOT

from pipeline.core.params import Params, load_params
from pipeline.tools.check.chain import chain_standing
from stages.__main__ import COMMANDS, FAMILIES

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
DEMO_STAGE = yaml.safe_load((ROOT / "demo/dvc.yaml").read_text())["stages"]["demo_videos"]["do"]
MORE_TEACHERS = yaml.safe_load((ROOT / "teachers/dvc.yaml").read_text())["stages"]
EVERY = {**STAGES, **{f"teachers/{name}": stage["do"] for name, stage in MORE_TEACHERS.items()}}
CODE_ENTRY = ("pipeline/__init__.py", "stages/__init__.py", "stages/__main__.py")


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("pipeline", "stages", cache_dir=None)


def module_of(command):
    return FAMILIES.get(command, command)


# rooms that a stage depends on as a whole; of these two it depends on the parts alone
PARTS = ("pipeline/distill", "pipeline/evaluate/score", "pipeline/tools")


def code_used(graph, command):
    name = f"stages.{module_of(command)}"
    used = graph.find_upstream_modules(name) | {name}
    paths = (f"{module.replace('.', '/')}.py" for module in used if "." in module)
    rooms = {room_of(path) for path in paths if (ROOT / path).is_file()}
    return sorted(room for room in rooms if not any(room.startswith(f"{other}/") for other in rooms))


def room_of(path):
    parts = path.split("/")
    depth = 3 if path.startswith(PARTS) else 2
    return "/".join(parts[:depth])


def params_read(command):
    """Names of the fields of `params` that a command reads; `params` itself must go nowhere.

    Other commands in its module are not looked at, but all that they may share.
    """
    path = f"stages/{module_of(command)}.py"
    tree = ast.parse((ROOT / path).read_text())
    others = FAMILIES.keys() - {command}
    tree.body = [node for node in tree.body if getattr(node, "name", None) not in others]
    fields = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_params(node.value)}
    uses = sum(is_params(node) and isinstance(node.ctx, ast.Load) for node in ast.walk(tree))
    attributes = sum(isinstance(node, ast.Attribute) and is_params(node.value) for node in ast.walk(tree))
    assert uses == attributes, f"{path} hands on all of params: dvc.yaml cannot say what is used of it"
    return sorted(fields)


def is_params(node):
    return isinstance(node, ast.Name) and node.id == "params"


def command_of(name):
    """Of a stage of dvc.yaml or of teachers/dvc.yaml, where the paths are others."""
    return name.removeprefix("teachers/")


@pytest.mark.parametrize("name", EVERY)
def test_code_dependencies_are_the_modules_imported(graph, name):
    declared = sorted(dep for dep in EVERY[name]["deps"] if dep.startswith(("pipeline/", "stages/")))
    expected = code_used(graph, command_of(name))
    assert declared == expected, "dvc.yaml should list:\n" + "\n".join(f"      - {path}" for path in expected)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_few_rooms(name):
    rooms = [dep for dep in STAGES[name]["deps"] if dep.startswith("pipeline/")]
    assert len(rooms) <= (7 if name == "report" else 6)
    assert all((ROOT / room).is_dir() for room in rooms)


def test_dvc_yaml_can_be_read_in_one_go():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 400


def rooms():
    return sorted(path.parent for path in (ROOT / "pipeline").rglob("__init__.py"))


def test_a_room_says_in_a_line_what_is_in_it():
    for room in rooms():
        tree = ast.parse((room / "__init__.py").read_text())
        assert ast.get_docstring(tree), room
        assert "\n" not in ast.get_docstring(tree), room
        assert len(tree.body) == 1, f"{room}: imports in it would be those of every stage that uses the room"


def test_a_room_has_at_most_a_dozen_files():
    assert {room.name: count for room in rooms() if (count := len(list(room.glob("*.py"))) - 1) > 12} == {}


def test_code_dependencies_of_the_demo(graph):
    assert sorted(DEMO_STAGE["deps"]) == code_used(graph, "demo_videos")


@pytest.mark.parametrize("name", EVERY)
def test_parameters_are_the_fields_read(name):
    # a further teacher's are its own entry alone, and its command line names its enhancer in place of the dial
    declared = {param.removesuffix(".${key}") for param in EVERY[name].get("params", [])}
    in_command = {"enhancer"} if "--enhancer ${item.enhancer}" in EVERY[name]["cmd"] else set()
    assert sorted(declared | in_command) == params_read(command_of(name))


@pytest.mark.parametrize("name", EVERY)
def test_a_stage_has_one_name(name):
    command = command_of(name)
    assert EVERY[name]["cmd"].split()[:4] == ["python", "-m", "stages", command]
    assert command in COMMANDS
    assert (ROOT / f"stages/{module_of(command)}.py").is_file()


@pytest.mark.parametrize("name", MORE_TEACHERS)
def test_a_further_teacher_is_made_as_the_first_one_is(name):
    """The same rooms; and all that it makes is in its folder, but for the record that precompute depends on."""
    first = STAGES[{"train_more_teacher": "train_teacher"}.get(name, name)]
    rooms = [[dep for dep in stage["deps"] if "/" in dep and not dep.startswith(("data/", "models/", "teachers/"))]
             for stage in (first, MORE_TEACHERS[name]["do"])]  # fmt: skip
    assert rooms[0] == rooms[1]
    outs = [out for out in MORE_TEACHERS[name]["do"]["outs"] if isinstance(out, str)]
    assert all(out.startswith("teachers/made/${key}/") for out in outs)
    assert "teachers/records" in STAGES["precompute_soft_targets"]["deps"]
    assert (ROOT / "teachers/records/README.md").is_file()


def test_commands_and_modules_are_the_same():
    modules = {path.stem for path in (ROOT / "stages").glob("*.py") if not path.stem.startswith("_")}
    assert modules == set(map(module_of, COMMANDS))
    assert set(COMMANDS) >= FAMILIES.keys()


def test_videos_are_decoded_in_a_process_that_can_be_lost():
    in_process = {
        "pipeline.videos.reader.probe",
        "pipeline.videos.reader.read_frames",
        "pipeline.videos.reader",
    }  # the module: all of it
    users = set()
    for path in (path for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                users |= {path.name for alias in node.names if prefix + alias.name in in_process}
    assert users == {"decoder.py"}


# The baseline reads train_student, and must not be trained again for what it does not have.
OWN_SECTIONS = {"soft_targets": {"train_student"}, "distillation": {"train_student"}}


def test_every_section_is_a_stage_or_shared_by_several():
    users = {
        field: {name for name in STAGES if field in STAGES[name].get("params", [])} for field in Params.model_fields
    }
    for field, info in Params.model_fields.items():
        assert users[field] or field == "render", f"no stage uses the parameter {field}"
        is_section = hasattr(info.annotation, "model_fields")
        assert not is_section or field in STAGES or len(users[field]) > 1 or users[field] == OWN_SECTIONS.get(field), (
            f"section {field} should bear its stage's name"
        )


def test_the_temperature_re_runs_the_student_alone():
    assert [name for name in STAGES if "temperature" in STAGES[name].get("params", [])] == ["train_student"]


def outs_of_all():
    return [
        out if isinstance(out, str) else next(iter(out))
        for stage in STAGES.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    ]


def test_every_training_tells_where_it_stands_in_the_folder_that_dvc_reads_and_git_keeps():
    trainings = {name: stage["cmd"] for name, stage in EVERY.items() if "train_" in name}
    assert len(trainings) == 5
    assert [name for name, command in trainings.items() if not command.endswith(" --live live")] == []
    assert yaml.safe_load((ROOT / "dvc.yaml").read_text())["metrics"] == ["live"]
    assert "/live/*.json" in (ROOT / ".gitignore").read_text().splitlines()
    assert "/live/README.md" in (ROOT / ".dvcignore").read_text().splitlines()


def test_no_path_is_named_twice_as_an_out():
    assert len(outs_of_all()) == len(set(outs_of_all()))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_complete(path):
    load_params(path)


def test_the_demo_recipe_is_what_ships():
    assert (ROOT / "configs/demo.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_the_report_depends_on_its_template_and_style_and_on_every_parameter():
    beside = {path.name for path in (ROOT / "pipeline/report").glob("report.*")}
    assert beside == {"report.css", "report.html.jinja"}
    assert {"pipeline/report", "params.yaml"} <= set(STAGES["report"]["deps"])


def test_the_report_needs_nothing_that_a_colleague_with_soft_targets_lacks():
    optional = {
        "data/enhanced",
        "models",
        *(f"models/{name}.safetensors" for name in ("enhancer", "teacher", "baseline")),
    }
    assert not optional & set(STAGES["report"]["deps"])
    assert list(STAGES)[-1] == "report"


# What a change of a file costs: the stages that `dvc status` then calls changed. Others follow where outs differ.
MORE = "teachers/dvc.yaml:train_more_teacher@second"
TRAININGS = {"train_teacher", "train_teacher_folds", "train_student", "train_baseline", MORE}
STALE = {
    "pipeline/tools/targets/diff.py": set(),
    "pipeline/distill/student/loss.py": {"train_student"},
    "pipeline/distill/teacher/precompute.py": {"precompute_soft_targets"},
    "pipeline/report/report.css": {"report"},
    "pipeline/train/optimization.py": TRAININGS,
    "stages/check.py": set(),
    "docs/architecture.md": set(),
}


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A clone with a further teacher whose dvc.lock says that all stages ran: their outs are texts."""
    folder = tmp_path_factory.mktemp("locked")
    clone(folder, "csv")
    name_teachers(folder, "second")
    (folder / yaml.safe_load((folder / "params.yaml").read_text())["prepare"]["root"]).mkdir(parents=True)
    of_second = [
        (out if isinstance(out, str) else next(iter(out))).replace("${key}", "second")
        for stage in MORE_TEACHERS.values()
        for out in stage["do"]["outs"]
    ]
    for path in (*outs_of_all(), *of_second):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    run(folder, "dvc", "commit", "--force", "--quiet")
    return folder


def name_teachers(folder, *names):
    text = (folder / "params.yaml").read_text()
    entry = "{enhancer: gamma_auto, network: r2plus1d_slim, seed: 1, clip: null, training: {}}"
    entries = "".join(f"\n  {name}: {entry}" for name in names) or " {}"
    start, stop = text.index("more_teachers:"), text.index("\n\n", text.index("more_teachers:"))
    (folder / "params.yaml").write_text(f"{text[:start]}more_teachers:{entries}{text[stop:]}")


def of_teacher(name):
    return {f"teachers/dvc.yaml:{stage}@{name}" for stage in MORE_TEACHERS}


TEACHER_CLIP = "{num_frames: 16, frame_stride: 2, size: 112}"
# report shows all parameters
STALE_BY_PARAMS = {
    "another teacher": (
        lambda folder: name_teachers(folder, "second", "third"),
        {*of_teacher("third"), "precompute_soft_targets", "report"},
    ),
    "a teacher less": (name_teachers, {"precompute_soft_targets", "report"}),
    "temperature": (lambda folder: substitute(folder, "\ntemperature: ", "1"), {"train_student", "report"}),
    "teacher_clip": (
        lambda folder: (folder / "params.yaml").write_text(
            (folder / "params.yaml").read_text().replace("teacher_clip: null", f"teacher_clip: {TEACHER_CLIP}")
        ),
        {"train_teacher", "train_teacher_folds", "precompute_soft_targets", "report"},
    ),
    "teacher_folds": (
        lambda folder: substitute(folder, "\nteacher_folds: ", "2 # "),
        {"train_teacher_folds", "precompute_soft_targets", "report"},
    ),
    "enhancer": (lambda folder: substitute(folder, "\nenhancer: ", "gamma # "), {"fit_enhancer", "report"}),
}


def substitute(folder, key, value):
    text = (folder / "params.yaml").read_text()
    assert text.count(key) == 1
    (folder / "params.yaml").write_text(text.replace(key, key + value))


def seen_at_a_glance(folder):
    """The stages that `dlkdd status` calls stale for what changed, not for those before them: as `dvc status` does."""
    found = chain_standing(folder)
    assert {each.state for each in found if "has not run" not in each.why} <= {"done", "stale"}
    return {each.stage for each in found if each.state != "done" and not each.why.startswith("follows ")}


def without_files(addresses):
    """Stages of DVC's addresses: teachers/dvc.yaml:enhance@second is enhance@second."""
    return {address.rpartition(":")[2] for address in addresses}


@pytest.mark.parametrize("change", STALE_BY_PARAMS)
def test_a_changed_parameter_makes_stale_what_uses_it_and_nothing_else(locked, change):
    apply, expected = STALE_BY_PARAMS[change]
    before = (locked / "params.yaml").read_text()
    try:
        apply(locked)
        changed = json.loads(run(locked, "dvc", "status", "--json").stdout)
        standing = seen_at_a_glance(locked)
    finally:
        (locked / "params.yaml").write_text(before)
    assert set(changed) == expected
    assert standing == without_files(expected)


@pytest.mark.parametrize("path", STALE)
def test_a_touched_file_makes_stale_what_uses_it_and_nothing_else(locked, path):
    before = (locked / path).read_text()
    (locked / path).write_text(before + "\n")
    try:
        changed = json.loads(run(locked, "dvc", "status", "--json").stdout)
        standing = seen_at_a_glance(locked)
    finally:
        (locked / path).write_text(before)
    assert set(changed) == STALE[path]
    assert standing == without_files(STALE[path])


def test_python_caches_make_nothing_stale(locked):
    run(locked, "python", "-m", "compileall", "-q", "pipeline", "stages")
    assert list(locked.glob("pipeline/**/__pycache__/*.pyc"))
    assert json.loads(run(locked, "dvc", "status", "--json").stdout) == {}
