"""Set-ups of DVC that people have: each kind of link to the cache, a remote, clean-ups, recipes back and forth."""

import json
import shutil
import sys

import pytest
from clones import clone, commit, run
from tiny_project import contents, make_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OUTS = ("data", "models", "results")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A clone with videos of its own, as docs/your-videos.md has it: the chain ran, and all is committed and pushed."""
    folder = tmp_path_factory.mktemp("own") / "clone"
    folder.mkdir()
    clone(folder, "csv")
    make_project(folder, prepare__root="my_videos")
    (folder / "data").rename(folder / "my_videos")
    run(folder, "dvc", "repro")
    run(folder, "dvc", "remote", "add", "--default", "storage", str(folder.with_name("storage")))
    commit(folder, "a run on my videos")
    run(folder, "dvc", "push")
    return folder


@pytest.fixture
def project(own, tmp_path):
    """A copy of that clone for one test."""
    return shutil.copytree(own, tmp_path / "project", symlinks=True)


def test_an_experiment_is_applied_and_gone_back_from_where_the_demo_was_never_rendered(project):
    before = contents(project, OUTS)
    run(project, "dvc", "exp", "run", "-S", "temperature=4", "--temp", "--name", "four")
    run(project, "dvc", "exp", "apply", "four")
    assert contents(project, OUTS) != before
    run(project, "git", "checkout", "--quiet", ".")
    run(project, "dvc", "checkout")
    assert contents(project, OUTS) == before
    assert json.loads(run(project, "dvc", "status", "--json").stdout) == {}


def test_a_colleague_pulls_all_that_there_is(own, tmp_path):
    run(tmp_path, "git", "clone", "--quiet", str(own), "colleague")
    run(tmp_path / "colleague", "dvc", "pull")
    assert contents(tmp_path / "colleague", OUTS) == contents(own, OUTS)


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "reflink", "copy"])
def test_each_kind_of_link_to_the_cache_serves_experiments_checkouts_and_clean_ups(project, kind):
    before = contents(project, OUTS)
    run(project, "dvc", "config", "cache.type", kind)
    relinked = run(project, "dvc", "checkout", "--relink", check=False)
    if kind == "reflink" and relinked.returncode:
        pytest.skip("this file system shares no blocks")
    assert relinked.returncode == 0, relinked.stderr
    assert (project / "models/student.safetensors").is_symlink() == (kind == "symlink")
    commit(project, "links")
    run(project, "dvc", "repro", "--force", "--single-item", "enhance", "precompute_soft_targets", "train_student")
    assert contents(project, OUTS) == before
    run(project, "dvc", "exp", "run", "-S", "temperature=4")
    run(project, "git", "checkout", "--quiet", ".")
    run(project, "dvc", "checkout")
    run(project, "dvc", "gc", "--workspace", "--force")
    run(project, sys.executable, "-m", "stages", "work", "clear", "--yes")
    run(project, "dvc", "checkout")
    assert contents(project, OUTS) == before
    assert json.loads(run(project, "dvc", "status", "--json").stdout) == {}


def test_recipes_switched_back_and_forth_run_nothing_twice(project):
    before, mine = contents(project, OUTS), (project / "params.yaml").read_text()
    run(project, sys.executable, "-m", "stages", "recipe", "use", "smoke")
    run(project, "dvc", "repro", "prepare")
    assert (project / "data/smoke").is_dir()
    (project / "params.yaml").write_text(mine)
    assert "Running stage" not in run(project, "dvc", "repro").stdout
    run(project, "dvc", "checkout")
    assert {name: value for name, value in contents(project, OUTS).items() if "data/smoke" not in name} == before
    run(project, sys.executable, "-m", "stages", "recipe", "use", "smoke")
    assert "Running stage" not in run(project, "dvc", "repro", "prepare").stdout


def test_it_runs_as_a_submodule(own, tmp_path):
    run(tmp_path, "git", "init", "--quiet", "outer")
    outer = tmp_path / "outer"
    run(outer, "git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(own), "inner")
    inner = outer / "inner"
    run(inner, "dvc", "pull")
    assert "Running stage" not in run(inner, "dvc", "repro").stdout
    run(inner, "dvc", "exp", "run", "-S", "temperature=4", "--temp", "--name", "four")
    run(inner, "dvc", "exp", "apply", "four")
    run(inner, "dvc", "repro")
