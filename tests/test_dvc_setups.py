"""Set-ups of DVC that people have: each kind of link to the cache, a remote, clean-ups, recipes back and forth."""

import json
import shutil

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
