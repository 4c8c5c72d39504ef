"""The documentation is true: its commands run, its options, links, messages and tables are those of the code."""

import ast
import itertools
import re
import shutil
import socket
import subprocess

import cv2
import numpy as np
import pytest
import yaml
from clones import clone, commit, environment, run, wait_for_queue
from command_line import install_program, leaves, parameters
from pages import FENCE, PAGES, anchors_of, arguments_of_dlkdd, blocks_of, calls_in, prose_of, text_of
from paths import ROOT

from docs import draw_rooms

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_ELSEWHERE = {
    "docs/sharing.md": "test_sharing.py",
    "docs/foreign-teacher.md": "test_foreign_teacher.py",
    "CONTRIBUTING.md": "test_contributing.py",
}
QUICKSTART = "docs/quickstart.md"


# fast: what can be known without running


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_run_or_says_why_not(block):
    if block.page in RUN_ELSEWHERE:
        assert re.fullmatch("run in: .+|not run: .{10,}", block.mark or "")
    elif block.mark is not None:
        assert re.fullmatch("not run: .{10,}", block.mark)


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_that_are_found(page):
    hidden = re.findall(r"^    (?:\$ )?(?:dlkdd|dvc|python|make|git|pip|torchrun) .*", prose_of(page), re.MULTILINE)
    assert hidden == [], "use ```sh"
    assert text_of(page).count("```sh") == len(blocks_of(page))


def commands_named():
    """Every call of dlkdd in a block or in a sentence, with where it stands."""
    for page in PAGES:
        for text in (*(block.text for block in blocks_of(page)), *re.findall(r"`(dlkdd [^`]*)`", prose_of(page))):
            for call in calls_in(text):
                arguments = arguments_of_dlkdd(call)
                if arguments:
                    yield pytest.param(arguments, id=f"{page}: {' '.join(call)[:70]}")


@pytest.mark.parametrize("arguments", list(commands_named()))
def test_commands_and_options_exist(arguments, monkeypatch):
    if arguments[0] in ("--help", "--version", "COMMAND", "--install-completion", "--show-completion"):
        return
    words = tuple(word.replace("_", "-") for word in arguments[:2])
    known = leaves()
    if words[:1] not in known and words not in known:
        assert words[0] in {command[0] for command in known}, f"no command {words[0]}"
        assert set(words[1:]) <= {"|", "--help"}, f"no command {' '.join(words)}"
        return
    command = words if words in known else words[:1]
    options = parameters(command, monkeypatch)
    rest = iter(arguments[len(command) :])
    for word in rest:
        if word.startswith("--"):
            assert word in options, f"{' '.join(command)} has no option {word}"
            if options[word]:
                next(rest, None)


def keys_swept():
    for block in BLOCKS:
        for call in calls_in(block.text):
            for flag, value in itertools.pairwise(call):
                if flag == "-S":
                    yield pytest.param(value.partition("=")[0], id=f"{block.page}: {value[:50]}")


@pytest.mark.parametrize("key", list(keys_swept()))
def test_swept_parameters_exist(key):
    section = yaml.safe_load(text_of("params.yaml"))
    for name in key.split("."):
        assert name in section
        section = section[name]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose_of(page)):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors_of(path.resolve().relative_to(ROOT)), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_code_exist(page):
    named = r"`((?:tests|pipeline|stages|benchmarks|configs|docs)/[\w/.-]+\.\w+)`(?!, new)"
    for name in re.findall(named, prose_of(page)):
        assert (ROOT / name).exists(), f"{page}: {name}"
    for name in re.findall(r"python -m (benchmarks\.\w+)", text_of(page)):
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), f"{page}: {name}"


def test_the_index_has_every_page():
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", text_of("docs/README.md")))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_the_table_of_rooms_is_what_the_rooms_say_of_themselves():
    row = r"^\| \*\*(\w+)/\*\* \| (.*?) \| !\[.*?\]\(images/rooms/(\w+)\.svg\) \|$"
    rows = re.findall(row, text_of("docs/architecture.md"), re.MULTILINE)
    assert [name for name, _, _ in rows] == list(draw_rooms.ROOMS)
    for name, line, picture in rows:
        assert line == ast.get_docstring(ast.parse(text_of(f"pipeline/{name}/__init__.py"))), name
        assert picture == name


def test_the_pictures_of_the_rooms_are_those_of_the_imports():
    folder = ROOT / "docs/images/rooms"
    pictures = draw_rooms.pictures()
    assert {path.stem for path in folder.iterdir()} == set(pictures)
    stale = [name for name, svg in pictures.items() if (folder / f"{name}.svg").read_text() != svg]
    assert stale == [], "run: python docs/draw_rooms.py"


ERRORS = {"ParamsError", "DataError", "EnvironmentProblem", "StaleArtifactError"}


def words_of(node):
    """A text as it is written in the code, with `…` for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(words_of(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


@pytest.fixture(scope="module")
def code():
    """All nodes of the code's syntax trees."""
    paths = [path for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py")]
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


@pytest.fixture(scope="module")
def explained():
    """The messages that the first columns of the troubleshooting page name."""
    cells = re.findall(r"^\| (`[^|]*`) \|", text_of("docs/troubleshooting.md"), re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_messages_that_are_explained_are_printed(code, explained):
    printed = {words_of(node) for node in code if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant)}
    assert [message for message in explained if not any(message in text for text in printed)] == []


def test_every_error_of_the_user_is_explained(code, explained):
    calls = [node for node in code if isinstance(node, ast.Call) and ast.unparse(node.func) in ERRORS and node.args]
    raised = {text for call in calls if re.search("[a-z]", text := words_of(call.args[0]))}
    assert len(raised) > 150
    assert [text for text in raised if not any(message in text for message in explained)] == []


def test_the_table_of_sweeps_is_that_of_dvc_yaml():
    stages = yaml.safe_load(text_of("dvc.yaml"))["stages"]
    more = yaml.safe_load(text_of("teachers/dvc.yaml"))["stages"]
    readers_of = [*stages.items(), *((name, stage["do"]) for name, stage in more.items())]
    rows = re.findall(r"^\| (`[^|]*`) \| (`[^|]*`) \|", text_of("docs/sweeps.md"), re.MULTILINE)
    assert len(rows) > 5
    for keys, readers in rows:
        for key in re.findall(r"`([^`]+)`", keys):
            readable = (key, f"{key}.${{key}}")
            expected = {name for name, stage in readers_of if {*readable} & {*stage.get("params", [])}}
            assert set(re.findall(r"`([^`]+)`", readers)) == expected, key


# slow: every block that is not marked, page by page, in a clone in which the quickstart ran

RUN_HERE = sorted(
    {block.page for block in BLOCKS if block.mark is None and block.page not in RUN_ELSEWHERE} - {QUICKSTART}
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run_page(folder, page):
    """Run a page's blocks in order; returns what they printed."""
    port, printed = free_port(), []
    output = folder.parent / "printed.txt"  # a pipe would stay open as long as the queue's worker lives
    for block in blocks_of(page):
        if block.mark is None:
            script = f'export PATH="{folder.parent / "bin"}:$PATH"\n{block.text.replace("8786", port)}'
            command = ("bash", "-euo", "pipefail", "-c", script)
            with output.open("w") as file:
                done = subprocess.run(command, cwd=folder, env=environment(), stdout=file, stderr=file, check=False)
            printed.append(output.read_text(encoding="utf-8"))
            assert done.returncode == 0, f"{block}\n{printed[-1]}"
            if "dvc queue start" in block.text:
                wait_for_queue(folder)
    return "".join(printed)


def add_material(folder):
    """What docs/predict.md calls the reader's own: a video, folders of videos, a folder of frames."""
    first, second, *_ = sorted((folder / "data/smoke").rglob("*.mp4"))
    for name, source in {"night.mp4": first, "videos/a.mp4": first, "more/deep/b.mp4": second}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    frames = folder / "frames/clip_0001"
    frames.mkdir(parents=True)
    for number, frame_HWC in enumerate(np.random.default_rng(0).integers(0, 40, (12, 48, 64, 3), dtype=np.uint8), 1):
        cv2.imwrite(str(frames / f"img_{number:05}.jpg"), frame_HWC)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A clone in which the quickstart's blocks ran, committed without what they wrote beside the artifacts; and what
    they printed."""
    folder = tmp_path_factory.mktemp("docs") / "clone"
    folder.mkdir()
    install_program(folder.parent / "bin")
    clone(folder, "demo")
    printed = run_page(folder, QUICKSTART)
    run(folder, "git", "reset", "--quiet", "--hard")
    run(folder, "git", "rm", "-r", "--quiet", "look")
    commit(folder, "what the pages start from")
    run(folder, "git", "tag", "start")
    yield folder, printed
    subprocess.run(("dvc", "queue", "stop", "--kill"), cwd=folder, env=environment(), capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_shows_what_is_printed(quickstart):
    folder, printed = quickstart
    (excerpt,) = [fence["text"] for fence in FENCE.finditer(text_of(QUICKSTART)) if not fence["language"]]
    for line in excerpt.splitlines():
        for part in line.split("…"):
            assert without_numbers(part.strip()) in without_numbers(printed), line
    assert (folder / "results/report.html").is_file()


def without_numbers(text):
    return re.sub(r"[\d,.]*\d+", "0", re.sub(" +", " ", text))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN_HERE)
def test_the_commands_of_a_page_run(quickstart, page):
    folder, _ = quickstart
    run(folder, "git", "reset", "--quiet", "--hard", "start")
    run(folder, "git", "clean", "-fdq")
    run(folder, "dvc", "checkout", "--quiet", "--force")
    add_material(folder)
    run_page(folder, page)
