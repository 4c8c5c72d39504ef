"""The report says what the numbers say, opens offline, is whole HTML whatever files are called, and misses nothing."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import browser
import cv2
import numpy as np
import pytest
from builders import noise_video, tiny_recognizer, write_frames
from report_runs import GAIN, make_run, metrics_values, paths_in, write_csv
from target_stores import teacher_attributes

from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.data.manifest import read_manifest
from pipeline.evaluate.compare import compare
from pipeline.evaluate.metrics_file import MODELS, Metrics, Protocol, write_evaluation
from pipeline.evaluate.score.predictions import Predictions
from pipeline.evaluate.tables import make_tables, write_tables
from pipeline.models.recognizer import save_model
from pipeline.report.figures import confusion, points, wilson
from pipeline.report.inputs import read_results
from pipeline.report.page import count_confusions, group_videos, make_report, most_frequent, verdict
from pipeline.report.pictures import GAP, MOST_FRAMES, moving_pair, shown_frames, still_pair
from pipeline.report.svg import Drawing, Scale, printable, shortened, ticks

VOID = {"meta", "img", "input", "br", "hr", "link"}


class Element:
    """An element of a page, and what is in it."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children, self.texts = [], []

    def all(self, *tags):
        """The elements below it, in their order; of these kinds, where any are named."""
        for child in self.children:
            if not tags or child.tag in tags:
                yield child
            yield from child.all(*tags)

    @property
    def text(self):
        return " ".join("".join(self.texts).split()) + "".join(f" {child.text}" for child in self.children)


class Tree(HTMLParser):
    """A strict reader: every element is closed, in the right order."""

    def __init__(self, page):
        super().__init__()
        self.root = self.open = Element("", {}, None)
        self.feed(page)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> twice"
        element = Element(tag, dict(attrs), self.open)
        self.open.children.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag, attrs):
        self.open.children.append(Element(tag, dict(attrs), self.open))

    def handle_endtag(self, tag):
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.texts.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run and its page."""
    paths = make_run(tmp_path_factory.mktemp("run"), quarantined=[(1, "no frames"), (2, "cut short")])
    return paths, make_report(paths)


@pytest.fixture
def run(whole, tmp_path):
    """A run of the test's own, to break."""
    root = whole[0].params.parent
    shutil.copytree(root, tmp_path / "run")
    return paths_in(tmp_path / "run")


@pytest.fixture(scope="module")
def page(whole):
    return Tree(whole[1]).root


# what it says


def test_it_says_where_the_teacher_is_not_better_than_the_baseline(run, page):
    """In the run that is made all three have the same curve."""
    (said,) = [element.text for element in page.all("p") if "not better than the baseline on val" in element.text]
    assert said.startswith("The teacher is not better than the baseline on val: top-1 75.0% and 75.0%. Before other")
    path = run.curves["baseline"]
    path.write_text(path.read_text().replace("0.75", "0.625"))
    assert "not better than the baseline on val" not in make_report(run)


def metrics_with(gain):
    return Metrics.model_validate(metrics_values(gain={**GAIN, **gain}))


@pytest.mark.parametrize(
    ("top1", "low", "high", "kind", "headline"),
    [
        (0.096, 0.04, 0.152, "good", "Distillation brought +9.6 points of top-1"),
        (-0.081, -0.146, -0.015, "bad", "Distillation cost 8.1 points of top-1"),
        (0.061, -0.01, 0.131, "unsure", "Distillation: +6.1 points of top-1, which may be chance"),
        (-0.02, -0.05, 0.0, "unsure", "Distillation: −2.0 points of top-1, which may be chance"),
        (0.0, 0.0, 0.0, "unsure", "Distillation: no difference in top-1"),
    ],
)
def test_the_headline_claims_no_more_than_the_interval(top1, low, high, kind, headline):
    said = verdict(metrics_with({"top1": top1, "top1_low": low, "top1_high": high}))
    assert (said["kind"], said["headline"]) == (kind, headline)
    assert f"interval {points(low)} to {points(high)}" in said["sentence"]
    assert "one training of each model" in said["caution"]


def test_the_first_screen_has_the_sentence_and_the_picture(page):
    first = next(page.all("main")).children[0]
    (heading,) = first.all("h1")
    (picture,) = first.all("svg")
    assert heading.text.strip() == "Distillation brought +25.0 points of top-1"
    assert "interval +5.0 to +45.0" in first.text
    assert "Student minus baseline: +25.0 points, +5.0 to +45.0" in picture.attributes["aria-label"]


def test_every_section_is_linked_and_has_its_heading(page):
    links = [link.attributes["href"][1:] for link in next(page.all("nav")).all("a")]
    headings = [heading.attributes["id"] for heading in page.all("h2")]
    assert links == headings
    assert len(links) == 12


def test_numbers_of_the_tables_are_on_the_page(whole, page):
    text = page.text
    paths, _ = whole
    with (paths.tables / "videos.csv").open() as file:
        shown = max(csv.DictReader(file), key=lambda v: float(v["student_p_true"]) - float(v["baseline_p_true"]))
    cards = [item for item in page.all("li") if any(h.text.strip() == shown["video_id"] for h in item.all("h4"))]
    for name in MODELS:
        share = f"{100 * float(shown[f'{name}_p_true']):.1f} %"
        assert share in cards[0].text
    for words in ("q1.mp4", "no frames", "temperature", "12.5 %", "0.400", "0.03"):
        assert words in text


def test_the_chain_is_linked_by_digests(whole, page):
    paths, _ = whole
    cards = {item.attributes["id"]: item for item in page.all("li") if "artifact" in item.attributes.get("id", "")}
    assert len(cards) == 8
    of = {next(card.all("h3")).text.strip(): card for card in cards.values()}
    targets = {}
    for path, card in of.items():
        linked = [cards[link.attributes["href"][1:]] for link in card.all("a")]
        targets[path] = {next(other.all("h3")).text.strip() for other in linked}
    models = {name: str(path) for name, path in paths.models.items()}
    manifest, dark, enhanced, soft = (
        str(path) for path in (paths.manifest, paths.dark, paths.enhanced, paths.soft_targets)
    )
    assert targets == {
        manifest: set(),
        dark: set(),
        models["enhancer"]: set(),
        enhanced: {dark, models["enhancer"]},
        models["teacher"]: {manifest, enhanced},
        soft: {manifest, enhanced, models["teacher"]},
        models["student"]: {manifest, dark, soft},
        models["baseline"]: {manifest, dark},
    }


def test_the_same_inputs_give_the_same_bytes(whole, run):
    first = make_report(run)
    assert first == make_report(run)
    # of the other run only the folder's name differs
    assert first == whole[1].replace(str(whole[0].params.parent), str(run.params.parent))
    assert not re.search(r"20[0-9]{2}-[0-9]{2}|[0-9]:[0-9]{2}", re.sub(r"<style>.*</style>|base64,[^\"]*", "", first))


# HTML


def test_it_is_for_everybody(page):
    (html,) = page.all("html")
    assert html.attributes["lang"] == "en"
    for tag in ("head", "header", "main", "nav", "footer", "h1"):
        assert len(list(page.all(tag))) == 1, tag
    assert next(next(page.all("head")).all("title")).text.startswith("Distillation brought")
    levels = [int(heading.tag[1]) for heading in page.all("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for image in page.all("img"):
        assert image.attributes["alt"]
        assert int(image.attributes["width"]) > 0
    for table in page.all("table"):
        assert table.children[0].tag == "caption"
        assert table.children[0].text.strip()
        assert all(cell.attributes["scope"] in ("row", "col") for cell in table.all("th"))
        widths = {len(row.children) for row in table.all("tr")}
        assert len(widths) == 1
    for drawing in page.all("svg"):
        attributes = drawing.attributes
        assert attributes.get("aria-hidden") == "true" or (attributes["role"], bool(attributes["aria-label"])) == (
            "img",
            True,
        )
    for part in page.all("section", "nav"):
        assert {"aria-label", "aria-labelledby"} & part.attributes.keys()


def test_names_within_the_page_are_unique_and_found(page):
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert max(Counter(ids).values()) == 1
    for element in page.all():
        for name in ("href", "aria-labelledby"):
            if name in element.attributes:
                assert element.attributes[name].removeprefix("#") in ids


def test_nothing_comes_from_elsewhere(whole, page):
    assert not list(page.all("script", "link", "iframe", "object"))
    for element in page.all():
        assert not [name for name in element.attributes if name.startswith("on")]
        assert element.attributes.get("src", "data:image/webp;base64,").startswith("data:image/webp;base64,")
    assert "url(" not in whole[1]
    policy = [meta.attributes["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</title></svg></table>{{ 7 * 7 }}{% raw %} &lt;b&gt; `\\",
    "класс " * 30,
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a run whose names are anything but names."""
    escapes = "\x1b[31mred\x00 \N{RIGHT-TO-LEFT OVERRIDE}gpj.exe"
    paths = make_run(
        tmp_path_factory.mktemp("hostile"),
        class_names=HOSTILE,
        quarantined=[(1, f"<b onclick='x'>{escapes}")],
        names=lambda label, split, number: f'<i onclick=x>{label}/{"long" * 40}{split}&amp;"{number}',
    )
    return make_report(paths)


def test_names_from_files_are_text_and_nothing_else(hostile):
    text = hostile
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\N{RIGHT-TO-LEFT OVERRIDE}]", text)
    root = Tree(text).root
    assert not list(root.all("script", "b", "i"))
    assert all(element.attributes["src"].startswith("data:") for element in root.all("img"))
    assert not [name for element in root.all() for name in element.attributes if name.startswith("on")]
    spoken = root.text
    for name in (*HOSTILE[:3], 'longtest&amp;"0', "<b onclick='x'>\N{REPLACEMENT CHARACTER}[31mred"):
        assert " ".join(name.split()) in spoken
    assert "49" not in next(root.all("title")).text


# what is missing, and what does not fit


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("params.yaml", ParamsError),
        ("data/manifest.csv", DataError),
        ("data/quarantine.csv", DataError),
        ("data/dark", StaleArtifactError),
        ("data/soft_targets.zarr", StaleArtifactError),
        ("models/student.safetensors", StaleArtifactError),
        *((f"results/curves/{name}.csv", StaleArtifactError) for name in MODELS),
        ("results/evaluation.json", StaleArtifactError),
        *(
            (f"results/tables/{name}.csv", StaleArtifactError)
            for name in ("per_class", "by_light", "by_length", "reliability", "videos")
        ),
    ],
)
def test_what_is_missing_is_named_with_a_remedy(run, name, error):
    path = run.params.parent / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(error, match=re.escape(str(path))) as caught:
        make_report(run)
    assert caught.value.remedy


def test_every_teacher_is_named_with_its_light_and_how_right_it_is(tmp_path):
    folds = ["e" * 32, "f" * 32]
    further = teacher_attributes("x3d_s", "d" * 32, light="equalize", top1_on_views=0.625, folds=folds)
    page = Tree(make_report(make_run(tmp_path, more_teachers=[further]))).root.text
    assert "r2plus1d_slim in the light gamma is right about 75.0 % of these views" in page
    assert "x3d_s in the light equalize is right about 62.5 % of these views, by 2 models of folds" in page
    assert "d" * 8 in page


def test_a_colleague_with_soft_targets_alone_has_a_report(run):
    shutil.rmtree(run.enhanced)
    for name in ("enhancer", "teacher", "baseline"):
        run.models[name].unlink()
    root = Tree(make_report(run)).root
    assert "the enhanced frames are not here" in root.text
    digests = [next(item.all("code")).text.strip() for item in root.all("li") if "artifact" in str(item.attributes)]
    assert [digest == "not here" for digest in digests] == [False, False, True, True, True, False, False, True]
    still = next(image for image in root.all("img") if image.attributes["class"] == "still")
    assert still.attributes["width"] == "24"  # dark alone


def with_digest(run, model, **changes):
    recognizer = tiny_recognizer(num_classes=3)
    facts = {"manifest": "", "frames": "", "soft_targets": ""}
    trained_on = {"digests": {**facts, **changes}, "best_epoch": 0}
    save_model(run.models[model], recognizer, class_names=("drink", "jump", "wave"), trained_on=trained_on)


def test_artifacts_of_different_runs_are_refused_with_everything_that_differs(run):
    with_digest(run, "student")
    with_digest(run, "baseline")
    with pytest.raises(StaleArtifactError, match="do not belong to one run") as caught:
        make_report(run)
    found = "\n".join(caught.value.findings)
    assert len(caught.value.findings) == 5
    for words in ("student.safetensors: its soft-target store", "baseline.safetensors: its dark store"):
        assert words in found


def test_enhanced_frames_of_other_dark_ones_are_refused(run):
    shutil.rmtree(run.enhanced)
    write_frames(run.enhanced, {"a": noise_video("a", (2, 4, 4))}, origin={"dark": "1" * 32})
    with pytest.raises(StaleArtifactError) as caught:
        make_report(run)
    assert "enhanced: its dark store is 1111" in caught.value.findings[0]


def changed_videos(run, **changes):
    with (run.tables / "videos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= changes
    write_csv(run.tables / "videos.csv", rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"video_id": "other"}, "its videos are not the 12 test videos"),
        ({"student_predicted": "swim"}, "the manifest has no class swim"),
    ],
)
def test_a_table_of_other_videos_or_classes_is_refused(run, changes, words):
    changed_videos(run, **changes)
    with pytest.raises(StaleArtifactError) as caught:
        make_report(run)
    assert words in "\n".join(caught.value.findings)


def test_metrics_of_an_earlier_version_are_refused_with_every_key(run):
    metrics = json.loads(run.evaluation.read_text())
    del metrics["student"]["ece"], metrics["protocol"]
    metrics["baseline"]["top1"] = 50
    run.evaluation.write_text(json.dumps(metrics))
    with pytest.raises(StaleArtifactError, match=r"evaluation\.json") as caught:
        make_report(run)
    assert [finding.partition(":")[0] for finding in caught.value.findings] == [
        "student.ece",
        "baseline.top1",
        "protocol",
    ]


def test_what_evaluate_writes_is_what_the_report_reads(run):
    manifest = read_manifest(run.manifest)
    rows = manifest.rows_of("test")
    labels_N = np.array([manifest.class_index(row) for row in rows])
    ids = tuple(row.video_id for row in rows)
    drawn = {
        name: np.random.default_rng(seed).dirichlet(np.ones(3), len(rows)).round(6) for seed, name in enumerate(MODELS)
    }
    found = {name: Predictions(ids, labels_N, probs_NK, manifest.class_names) for name, probs_NK in drawn.items()}
    tables = make_tables(found, rows, {name: float(index) for index, name in enumerate(ids)})
    protocol = Protocol(split="test", num_clips=3, num_crops=1, manifest=manifest.digest)
    metrics = compare(found, protocol=protocol, num_bootstraps=200, seed=0)
    shutil.rmtree(run.tables)
    write_tables(run.tables, tables)
    write_evaluation(run.evaluation, metrics)
    results = read_results(run)
    assert results.metrics.student.top1 == pytest.approx(metrics.student.top1, abs=1e-6)
    assert results.tables.keys() == tables.keys()
    for name, table in results.tables.items():
        assert table == [pytest.approx(row, abs=1e-6) for row in tables[name]]
    make_report(run)


# videos one by one


def scored(name, student, baseline, *, right=True):
    predicted = {"student_predicted": "a" if right else "b"}
    return {"video_id": name, "class_name": "a", **predicted, "student_p_true": student, "baseline_p_true": baseline}


def test_groups_have_what_their_title_says_with_ties_by_name():
    videos = [scored("d", 0.9, 0.1), scored("c", 0.5, 0.5), scored("b", 0.2, 0.4, right=False), scored("a", 0.9, 0.1)]
    names = {title: [video["video_id"] for video in group] for title, group in group_videos(videos)}
    assert names == {
        "Most won by distillation": ["a", "d"],
        "Most lost by distillation": ["b"],
        "The student's worst": ["b"],
    }


def test_confusions_are_counted_from_true_to_predicted():
    videos = [scored("x", 0.1, 0.1, right=False)] * 3 + [scored("y", 0.9, 0.1)]
    counts_KK = count_confusions(videos, ("a", "b"), "student")
    assert counts_KK.tolist() == [[1, 3], [0, 0]]
    assert most_frequent(counts_KK, ("a", "b")) == [("a", "b", "3 of 4")]


# pictures


def decoded(uri):
    return np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)


RED = np.array([230, 40, 20], np.uint8)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Dark frames that grow lighter from black, and enhanced ones that are red."""
    folder = tmp_path_factory.mktemp("stores")
    dark = np.stack([np.full((30, 40, 3), 4 * number, np.uint8) for number in range(60)])
    return write_frames(folder / "dark", {"v": dark}), write_frames(folder / "enhanced", {"v": dark * 0 + RED})


def test_halves_are_dark_and_enhanced_in_step(stores):
    shown = moving_pair(*stores, "v", 25.0)
    _, animation = cv2.imdecodeanimation(decoded(shown.moving))
    assert (shown.width, shown.height) == (80 + GAP, 30)
    assert len(animation.frames) == len(shown_frames(60, 25.0)) == MOST_FRAMES
    assert animation.loop_count == 0
    for frame, number in zip(animation.frames, shown_frames(60, 25.0), strict=True):
        assert frame[:, :36, :3].mean() == pytest.approx(4 * number, abs=3)
        assert frame[:, 46:, 2::-1].mean(axis=(0, 1)) == pytest.approx(RED, abs=8)  # OpenCV has blue first
    still_HWC = cv2.imdecode(decoded(still_pair(*stores, "v").still), cv2.IMREAD_COLOR)
    assert still_HWC[:, :36].mean() == pytest.approx(4 * 30, abs=3)
    assert still_HWC[:, 46:, ::-1].mean(axis=(0, 1)) == pytest.approx(RED, abs=8)
    assert still_HWC.shape == (30, 80 + GAP, 3)


def test_without_enhanced_frames_the_dark_ones_are_shown(stores):
    assert moving_pair(stores[0], None, "v", 25.0).width == still_pair(stores[0], None, "v").width == 40


def test_stores_of_other_sizes_are_refused(stores, tmp_path):
    other = write_frames(tmp_path / "other", {"v": np.zeros((60, 15, 20, 3), np.uint8)})
    with pytest.raises(StaleArtifactError, match="v has other frames"):
        still_pair(stores[0], other, "v")


@pytest.mark.parametrize("num_frames", [1, 2, 7, 24, 25, 49, 300])
@pytest.mark.parametrize("fps", [0.0, 5.0, 12.5, 25.0, 60.0])
def test_shown_frames_are_within_the_video_around_its_middle(num_frames, fps):
    numbers = shown_frames(num_frames, fps)
    assert 1 <= len(numbers) <= MOST_FRAMES
    assert 0 <= numbers[0] <= numbers[-1] < num_frames
    assert len(set(np.diff(numbers))) <= 1
    assert abs(numbers[0] - (num_frames - 1 - numbers[-1])) <= 1


def test_pictures_of_pure_noise_stay_small(tmp_path):
    noise = {"v": noise_video("v", (60, 240, 426))}
    dark, enhanced = write_frames(tmp_path / "dark", noise), write_frames(tmp_path / "enhanced", noise)
    shown = moving_pair(dark, enhanced, "v", 25.0)
    assert (shown.width, shown.height) == (2 * 227 + GAP, 128)
    # six of them, and stills of eighteen
    assert 6 * len(shown.moving + shown.still) + 18 * len(still_pair(dark, enhanced, "v").still) < 8e6


# figures


@pytest.mark.parametrize(
    ("low", "high", "most"), [(0, 1, 6), (-0.16, 0.16, 6), (0.51, 0.57, 6), (1, 20, 6), (3, 3.01, 4)]
)
def test_ticks_are_round_within_the_axis_and_few(low, high, most):
    found = ticks(low, high, most)
    assert 2 <= len(found) <= most
    assert low - 1e-9 <= found[0] <= found[-1] <= high + 1e-9
    step = found[1] - found[0]
    assert np.allclose(np.diff(found), step)
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-9)) in (1, 2, 5)


def test_ticks_of_counts_are_whole():
    assert ticks(1, 2, 6, least_step=1) == [1, 2]
    assert ticks(1, 20, 6, least_step=1) == [5, 10, 15, 20]


def test_an_axis_without_length_is_drawn():
    assert ticks(1, 1, 6) == [1]
    assert Scale(1, 1, 0, 100)(1) == 50


def test_wilson_intervals_are_those_of_other_programs():
    # statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson")
    assert wilson(0.8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 3)[0] == 0
    assert wilson(1, 3)[1] == 1


def test_points_have_a_sign_and_zero_has_none():
    assert [points(share) for share in (0.1, -0.081, 0.0, -0.0001)] == ["+10.0", "−8.1", "0.0", "0.0"]


def test_texts_are_shortened_in_the_middle():
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 6) == "abc…jk"
    assert printable("a\x1b\tb\xa0c\u202e") == "a\N{REPLACEMENT CHARACTER}\tb\xa0c\N{REPLACEMENT CHARACTER}"


def test_texts_of_a_figure_are_escaped_and_without_control_characters():
    drawing = Drawing(10, 10, "<a\x1b")
    drawing.text(1, 2, "<b\x1b", note="<c\x1b")
    drawing.rect(0, 0, 1, 1, "x", note="<d\x1b")
    drawing.mark(0, 0, "diamond", "x", note="<e\x1b")
    text = str(drawing.markup())
    assert "\x1b" not in text
    for letter in "abcde":
        assert f"&lt;{letter}\N{REPLACEMENT CHARACTER}" in text


def test_the_matrix_of_hundreds_of_classes_is_a_small_picture():
    drawn = np.random.default_rng(0).integers(400, size=(2, 50_000))
    counts_KK = np.zeros((400, 400), np.int64)
    np.add.at(counts_KK, (*drawn,), 1)
    text = str(confusion(counts_KK, [str(number) for number in range(400)], "student"))
    assert len(text) < 1e6
    picture_HWC = cv2.imdecode(decoded(re.search('href="([^"]*)"', text)[1]), cv2.IMREAD_UNCHANGED)
    assert ((picture_HWC[..., 3] > 0) == (counts_KK > 0)).all()
    blue_KK, red_KK = picture_HWC[..., 0], picture_HWC[..., 2]
    assert ((blue_KK > red_KK) == np.eye(400, dtype=bool)).all()


def test_many_classes_have_a_page(tmp_path):
    names = [f"class {number:03d}" for number in range(40)]
    text = make_report(make_run(tmp_path, class_names=names))
    assert "The 24 classes that differ most of 40." in text
    assert "40 classes in the manifest's order" in text.replace("&#39;", "'")


# as a command, and in a browser


def options(paths, out):
    given = {
        "manifest": paths.manifest,
        "quarantine": paths.quarantine,
        "dark": paths.dark,
        "enhanced": paths.enhanced,
        "soft-targets": paths.soft_targets,
        "models": paths.models["student"].parent,
        "curves": paths.curves["student"].parent,
        "evaluation": paths.evaluation,
        "tables": paths.tables,
        "out": out,
        "params": paths.params,
    }
    return [text for name, value in given.items() for text in (f"--{name}", value)]


def test_the_command_writes_the_page(call, whole, tmp_path):
    code, out, err = call("report", *options(whole[0], tmp_path / "new/report.html"))
    assert (code, out) == (0, ""), err
    assert (tmp_path / "new/report.html").read_text() == whole[1]
    assert "MB -> " in err


def test_the_command_leaves_no_page_where_something_is_missing(call, run, tmp_path):
    (run.tables / "by_light.csv").unlink()
    code, _, err = call("report", *options(run, tmp_path / "report.html"))
    assert code == 5
    assert "by_light.csv: cannot be used: No such file" in err
    assert "help: `dvc repro`" in err
    assert not (tmp_path / "report.html").exists()


def in_a_browser(text, folder):
    if browser.executable() is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is installed")
    path = folder / "report.html"
    path.write_text(text)
    return browser.opened(path)


@pytest.fixture(scope="module")
def seen(whole, tmp_path_factory):
    """The page in a browser."""
    with in_a_browser(whole[1], tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.mark.slow
def test_long_and_hostile_names_fit_a_phone_and_run_nothing(hostile, tmp_path):
    with in_a_browser(hostile, tmp_path) as page:
        page.show(320)
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate("document.querySelectorAll('script, main b, main i').length") == 0
        assert page.problems == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_every_screen(seen, width, scheme):
    seen.show(width, scheme=scheme)
    assert seen.evaluate("document.documentElement.scrollWidth") <= width
    background = seen.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(18, 20, 23)") == (scheme == "dark")
    # the sentence and the picture are on the first screen
    assert seen.evaluate("document.querySelector('.first svg').getBoundingClientRect().bottom") < 900


@pytest.mark.slow
def test_it_asks_for_nothing_and_complains_of_nothing(seen):
    assert {address.partition(":")[0] for address in seen.requests} == {"file", "data"}
    assert seen.problems == []
    assert seen.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


MOVING = "[...document.querySelectorAll('.moving')].map(image => getComputedStyle(image).display)"


@pytest.mark.slow
def test_nothing_moves_for_those_who_asked_for_it(seen):
    seen.show(1280)
    assert set(seen.evaluate(MOVING)) == {"block"}
    seen.show(1280, motion="reduce")
    assert set(seen.evaluate(MOVING)) == {"none"}
    seen.show(1280)
    seen.evaluate("document.getElementById('stand').click()")
    assert set(seen.evaluate(MOVING)) == {"none"}
    seen.evaluate("document.getElementById('stand').click()")


@pytest.mark.slow
def test_the_keyboard_reaches_the_result_first(seen):
    for kind in ("keyDown", "keyUp"):
        seen.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert seen.evaluate("document.activeElement.className") == "skip"
    assert seen.evaluate("document.activeElement.getBoundingClientRect().left") >= 0


CONTRASTS = """
(() => {
  const numbers = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const luminance = colour => {
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = numbers(colour).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
  };
  return [...document.querySelectorAll('p, a, h1, h2, h3, td, th, dt, dd, caption, summary, text')].map(element => {
    const style = getComputedStyle(element);
    const both = [luminance(element.tagName === 'text' ? style.fill : style.color), luminance(behind(element))];
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  });
})()
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(seen, scheme):
    """4.5 to 1, as WCAG 2.2 asks for in 1.4.3."""
    seen.show(1280, scheme=scheme)
    assert min(seen.evaluate(CONTRASTS)) >= 4.5
