"""The page of `dvc plots` needs no network: it has the scripts that DVC's own page would fetch."""

from __future__ import annotations

import re
from configparser import ConfigParser

from dvc_render.vega import VegaRenderer
from paths import ROOT

PAGE = (ROOT / ".dvc/plots.html").read_text(encoding="utf-8")


def test_it_is_the_page_that_dvc_takes():
    config = ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert config["plots"]["html_template"] == "plots.html"  # relative to .dvc
    assert "{plot_divs}" in PAGE


def test_its_scripts_are_of_the_versions_that_dvc_draws_for():
    wanted = re.findall(r"npm/([\w-]+@[\d.]+)", VegaRenderer.SCRIPTS)
    assert wanted
    assert re.findall(r"<script>/\*! ([\w-]+@[\d.]+)", PAGE) == wanted


def test_it_fetches_nothing():
    outside_scripts = re.sub(r"<script>.*?</script>", "", PAGE, flags=re.DOTALL)
    assert "{scripts}" not in PAGE  # DVC would put its own there
    assert not re.search(r"\b(src|href)\s*=", outside_scripts)
    assert "<script " not in PAGE
