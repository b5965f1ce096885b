"""The report page on synthetic artifacts: escaping, self-containedness, honesty, order, size."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_fixtures import write_study
from synthetic_study import SyntheticStudy

from archbench.artifacts import read_json, write_json
from archbench.report.build import IncompleteStudyError, write_report
from archbench.report.collect import collect_study
from archbench.report.labels import spelled
from archbench.report.methods import methods_markdown
from archbench.report.page import SECTIONS

EVIL = "<script>alert(1)</script>"
FAILED = "resnet18"


class Page(HTMLParser):
    """Tags with attributes, captions and the order of sections of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.captions: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "caption":
            self.captions.append("")
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        if "caption" in self._inside:
            self.captions[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def build(root: Path, spec: SyntheticStudy, *, partial: bool = False) -> tuple[str, Path]:
    configuration, results = write_study(root, spec)
    write_report(configuration=configuration, results=results, output=results, logs=root / "logs", partial=partial)
    return (results / "report.html").read_text(encoding="utf-8"), results


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A phantom study with hostile class names, a failed model and an undefined metric."""
    spec = SyntheticStudy(
        label="hostile",
        classes=(EVIL, '"><img src=x onerror=alert(2)>', "Moderate & more", "Severe"),
        failed=(FAILED,),
        undefined_metrics={"macro_f1": f"no case of class {EVIL}"},
        cam_cases=6,
        problems=60,
    )
    return build(tmp_path_factory.mktemp("hostile"), spec, partial=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A real-data study of one model without timing, CAM or ensemble."""
    spec = SyntheticStudy(
        label="bare",
        models=("alone",),
        phantom=False,
        timing=False,
        gradcam=False,
        ensemble="",
        n_patients=18,
        same_cases=True,
        problems=0,
    )
    return build(tmp_path_factory.mktemp("bare"), spec)


def test_text_from_data_stays_text(hostile: tuple[str, Path]) -> None:
    page = Page(hostile[0])
    assert len(page.all("script")) == 1  # our own sorting code
    assert not [a for a in page.all("img") if a.get("src") == "x" or "onerror" in a]
    assert "alert(1)" in hostile[0]
    assert EVIL not in hostile[0]


def test_page_needs_no_network(hostile: tuple[str, Path]) -> None:
    page = Page(hostile[0])
    for tag, attributes in page.tags:
        for key in ("src", "srcset", "href", "data", "poster"):
            value = attributes.get(key) or ""
            download = "download" in attributes and value.startswith("data:")
            allowed = (
                value.startswith(("data:image/", "#")) or re.fullmatch(r"results(_table)?\.\w+", value) or download
            )
            assert not value or allowed, f"<{tag} {key}={value[:80]}>"
    assert not page.all("link")
    downloads = [a for a in page.all("a") if "download" in a]
    assert len(downloads) > 30
    assert all(re.fullmatch(r"[\w.-]+\.(csv|tex|md)", str(a["download"])) for a in downloads)
    assert "@import" not in hostile[0]
    assert "url(" not in hostile[0]


def test_every_image_has_alternative_text(hostile: tuple[str, Path]) -> None:
    images = Page(hostile[0]).all("img")
    assert len(images) > 20
    assert all((image.get("alt") or "").strip() for image in images)


def test_identifiers_are_unique(hostile: tuple[str, Path]) -> None:
    identifiers = [a["id"] for _, a in Page(hostile[0]).tags if a.get("id")]
    assert len(identifiers) == len(set(identifiers))


def test_sections_stand_in_order_and_are_listed(hostile: tuple[str, Path]) -> None:
    page = Page(hostile[0])
    assert [a["id"] for a in page.all("section")] == [section.identifier for section in SECTIONS]
    links = [a.get("href") for a in page.all("a")]
    assert [f"#{section.identifier}" for section in SECTIONS if f"#{section.identifier}" in links] == [
        f"#{section.identifier}" for section in SECTIONS
    ]


def test_every_table_of_phantoms_says_so(hostile: tuple[str, Path]) -> None:
    html, results = hostile
    captions = Page(html).captions
    assert len(captions) > 10
    assert all("phantom data" in caption.lower() for caption in captions)
    for name in ("results_table.txt", "results_table.tex", "results_table.csv", "results.json"):
        assert "phantom" in (results / name).read_text(encoding="utf-8").lower(), name
    assert "Is what was planted found?" in html


def test_real_data_are_not_called_phantoms(bare: tuple[str, Path]) -> None:
    assert "phantom" not in bare[0].lower()


def test_sentences_of_other_stages_name_metrics_as_readers_know_them(hostile: tuple[str, Path]) -> None:
    page, _ = hostile
    assert "bound of the gain in QWK decides" in page and "gain in qwk" not in page
    assert spelled("qwk 0.1 below, risk_qwk not", "qwk") == "QWK 0.1 below, risk_qwk not"


def test_failed_model_is_listed_with_the_end_of_its_log(hostile: tuple[str, Path]) -> None:
    html, results = hostile
    assert f"{FAILED}: failed" in html
    assert "RuntimeError: out of &lt;memory&gt;" in html
    assert "epoch 39" in html
    assert "epoch 3\n" not in html  # only the end
    assert f"FAILED {FAILED}" in (results / "results_table.txt").read_text(encoding="utf-8")
    assert read_json(results / "results.json")["datasets"]["fundus"]["models"][FAILED]["status"] == "failed"


def test_an_interrupted_model_is_not_called_failed(tmp_path: Path) -> None:
    spec = SyntheticStudy(label="stopped", failed=(FAILED,), gradcam=False, timing=False, n_patients=30)
    configuration, results = write_study(tmp_path, spec)
    (log,) = (tmp_path / "logs").rglob(f"{FAILED}/*.log")
    log.write_text("epoch 7\nTraceback (most recent call last):\nKeyboardInterrupt\n", encoding="utf-8")
    write_report(configuration=configuration, results=results, output=results, logs=tmp_path / "logs", partial=True)
    html = (results / "report.html").read_text(encoding="utf-8")
    assert f"{FAILED}: not finished" in html and "Not finished." in html and "The same command goes on." in html
    assert f"{FAILED}: failed" not in html and "Failed models" not in html
    assert f"NOT FINISHED {FAILED}" in (results / "results_table.txt").read_text(encoding="utf-8")
    assert read_json(results / "results.json")["datasets"]["fundus"]["models"][FAILED]["status"] == "not finished"


def test_failed_model_is_refused_without_partial(tmp_path: Path) -> None:
    configuration, results = write_study(tmp_path, SyntheticStudy(label="refused", failed=(FAILED,), gradcam=False))
    with pytest.raises(IncompleteStudyError, match=f"fundus/{FAILED}.*--partial"):
        write_report(configuration=configuration, results=results, output=results)
    assert not (results / "report.html").exists()


def test_undefined_value_is_a_dash_with_its_reason(hostile: tuple[str, Path]) -> None:
    html = hostile[0]
    reason = "no case of class &lt;script&gt;alert(1)&lt;/script&gt;"
    assert re.search(rf'<span class="undefined" title="{re.escape(reason)}">–<sup>\d+</sup>', html)
    assert f"<li>{reason}</li>" in html


def test_missing_parts_say_why(bare: tuple[str, Path]) -> None:
    html = bare[0]
    assert "no evaluated model was timed" in html
    assert "alone: no CAM" in html
    assert "No ensemble was tried" in html
    assert "No problem was found in the data" in html


def test_warnings_stand_between_answer_and_table(bare: tuple[str, Path]) -> None:
    html = bare[0]
    for title in ("Selected and reported on the same cases", "Few patients", "One seed"):
        assert html.index('class="answer"') < html.index(f"<strong>{title}.") < html.index('id="results"')


def test_long_problem_list_is_cut_and_counted(hostile: tuple[str, Path]) -> None:
    html = hostile[0]
    table = html[html.index('id="problems-fundus"') :]
    assert table[: table.index("</table>")].count("<tr>") == 51
    assert "the other 10 stand in data/audit.json" in html


def test_sorting_values_of_undefined_cells_are_empty(hostile: tuple[str, Path]) -> None:
    for cell in re.findall(r'<td class="[^"]*" data-sort="([^"]*)"><span class="undefined"', hostile[0]):
        assert cell == ""


def test_size_and_files(hostile: tuple[str, Path]) -> None:
    html, results = hostile
    assert len(html.encode()) < 15 * 2**20
    names = ("forest", "class_distribution", "roc_curves", "training_curves", "accuracy_against_latency", "reliability")
    for path in [*(f"figures/{name}.svg" for name in names), "figures/cam_sheet.png", "confusion_matrices.png"]:
        assert (results / path).stat().st_size > 1000, path


def test_a_figure_file_holds_every_panel_as_the_page_has_it(bare: tuple[str, Path]) -> None:
    """An SVG file is one picture with the page's pictures inside, each with its title and its text for the blind."""
    root = ElementTree.parse(bare[1] / "figures" / "roc_curves.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    inside = root.findall(f"{svg}svg")
    assert len(inside) == 6  # five grades and the legend
    assert all((panel.findtext(f"{svg}desc") or "").startswith(("ROC curves", "Legend")) for panel in inside)
    assert len(root.findall(f"{svg}path")) == 5  # titles
    box = [float(part) for part in (root.get("viewBox") or "").split()]
    for panel in inside:
        x, y, width, height = (float(panel.get(key) or 0) for key in ("x", "y", "width", "height"))
        assert x + width <= box[2] and y + height <= box[3]


def test_two_runs_write_the_same_bytes(bare: tuple[str, Path], tmp_path: Path) -> None:
    configuration = read_json(bare[1] / "results.json")["configuration"]
    write_report(configuration=configuration, results=bare[1], output=tmp_path)
    for name in ("results_table.csv", "results_table.tex", "report.html", "figures/roc_curves.svg"):
        assert (tmp_path / name).read_bytes() == (bare[1] / name).read_bytes(), name


def test_import_is_light() -> None:
    code = (
        "import sys, archbench.report, archbench.report.build, archbench.report.results\n"
        "heavy = {'torch', 'transformers', 'timm', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'PIL', 'jinja2'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_methods_name_what_ran_not_unset_keys(tmp_path: Path) -> None:
    configuration, results = write_study(tmp_path, SyntheticStudy(label="methods", gradcam=False, n_patients=30))
    configuration["training"] |= {"loss": None, "early_stopping": {"metric": None, "patience": 10}}
    name = next(iter(configuration["models"]))
    configuration["models"][name]["training"] = {"epochs": 4}
    write_report(configuration=configuration, results=results, output=results)
    html = (results / "report.html").read_text(encoding="utf-8")
    methods = html[html.index('<div id="methods">') : html.index("<h4>Reporting check list</h4>")]
    assert "None" not in methods
    assert "weighted cross entropy loss" in methods
    assert "without a better validation quadratic weighted kappa" in methods
    assert "epochs 4)" in methods
    assert "the predicted class is the mean grade under the predicted probabilities, rounded" in html


def test_methods_name_every_kind_of_interval_and_only_fits_that_were_made(tmp_path: Path) -> None:
    spec = SyntheticStudy(label="intervals", gradcam=False, n_patients=30, ensemble="")
    configuration, results = write_study(tmp_path, spec)
    configuration["protocol"]["seeds"] = [1]
    plain = methods_markdown(collect_study(configuration=configuration, results=results))
    assert "Wilson" not in plain and "DeLong" not in plain and "quadrature" not in plain
    assert "Calibration was fitted on out-of-fold predictions of other patients." in plain
    configuration["protocol"]["seeds"] = [1, 2]
    for method, file in zip(("wilson", "logit_delong"), sorted(results.glob("*/*/metrics.json")), strict=False):
        content = read_json(file)
        next(iter(content["metrics"].values()))["method"] = method
        write_json(file, content)
    for file in results.glob("*/*/calibration.json"):
        write_json(file, {**read_json(file), "parameters": []})
    text = methods_markdown(collect_study(configuration=configuration, results=results))
    for words in ("has Wilson's", "logit interval of clustered DeLong", "in quadrature by the standard error over"):
        assert words in text
    assert "fitted on out-of-fold" not in text
