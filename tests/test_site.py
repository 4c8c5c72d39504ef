"""The site has every page of the documentation, and its links lead where those of the repository do."""

from __future__ import annotations

import json
import re
import sys

import pytest
import yaml
from clones import clone, run
from pages import FENCE, PAGES
from paths import ROOT

from docs.make_site import NAMES, page_of

TEXTS = [name for name in NAMES if NAMES[name].endswith(".md")]
LINK = re.compile(r"\]\(([^)\s#]+)")


def navigation():
    loader = type("Loader", (yaml.SafeLoader,), {})  # its slugs are named by a tag of Python's
    loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), loader)
    return [page for section in config["nav"] for pages in section.values() for each in pages for page in each.values()]


def test_every_page_is_on_the_site_once():
    assert sorted(navigation()) == sorted(NAMES[name] for name in TEXTS)
    assert set(PAGES) <= set(TEXTS)
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize("name", TEXTS)
def test_a_link_leads_to_a_page_or_to_a_file_of_the_repository(name):
    targets = LINK.findall(FENCE.sub("", page_of(name, "https://example.org/blob/main")))
    of_repository = [target.removeprefix("https://example.org/blob/main/") for target in targets]
    assert all((ROOT / path).exists() for path, target in zip(of_repository, targets, strict=True) if path != target)
    inside = [target for target in targets if not re.match(r"\w+:", target)]
    assert set(inside) <= set(NAMES.values())


def test_without_an_address_a_file_is_named_and_not_linked_to():
    assert "](../teachers/dvc.yaml)" in (ROOT / "docs/training.md").read_text()
    assert "dvc.yaml](" not in page_of("docs/training.md")
    assert "blob/main/teachers/dvc.yaml)" in page_of("docs/training.md", "https://example.org/blob/main")


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link_and_needs_no_network(tmp_path):
    pytest.importorskip("zensical", reason="the extra docs is not installed")
    clone(tmp_path)
    run(tmp_path, sys.executable, "docs/make_site.py", "site/pages")
    run(tmp_path, "zensical", "build", "--strict")
    site = tmp_path / "site/html"
    assert {path.stem for path in site.glob("*.html")} == {NAMES[name].removesuffix(".md") for name in TEXTS} | {"404"}
    assert json.loads((site / "search.json").read_text())
    for page in site.glob("*.html"):
        for source in re.findall(r'<(?:img|script|link)[^>]* (?:src|href)="([^"]+)"', page.read_text()):
            path = site / source.split("?")[0].lstrip("/")
            assert source.startswith("data:") or path.is_file(), f"{page.name}: {source}"


@pytest.mark.slow
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path):
    pytest.importorskip("zensical", reason="the extra docs is not installed")
    clone(tmp_path)
    run(tmp_path, sys.executable, "docs/make_site.py", "site/pages")
    for wrong in ("nowhere.md", "check.md#nothing"):
        (tmp_path / "site/pages/losses.md").write_text(f"# Losses\n\n[wrong]({wrong})\n")
        assert run(tmp_path, "zensical", "build", "--strict", check=False).returncode != 0, wrong
