"""Tables as CSV and LaTeX, and the reporting check list."""

from __future__ import annotations

import csv
import io

import pytest
from report_fixtures import write_study
from synthetic_study import MODELS, SyntheticStudy

from archbench.report.cells import Cell, Column, Table, undefined_cell
from archbench.report.checklist import AUTHOR, reporting_checklist
from archbench.report.collect import collect_study
from archbench.report.exports import latex_table, table_csv, table_latex
from archbench.report.methods import methods_paragraphs

TABLE = Table(
    "ranks",
    "Ranks of 50 % & more.",
    [Column("Model", numeric=False), Column("AUROC"), Column("Note", numeric=False)],
    [
        [Cell("a_1"), Cell("0.812", 0.812, sub="0.790 to 0.831"), Cell("best, so far")],
        [Cell("b"), undefined_cell("no positives"), Cell('says "no"')],
    ],
)


def test_csv_can_be_read_back_and_undefined_is_empty_with_its_reason():
    rows = list(csv.DictReader(io.StringIO(table_csv(TABLE))))
    assert rows[0] == {
        "Model": "a_1",
        "AUROC": "0.812",
        "AUROC (interval)": "0.790 to 0.831",
        "Note": "best, so far",
        "undefined because": "",
    }
    assert rows[1]["AUROC"] == "" and rows[1]["undefined because"] == "no positives" and rows[1]["Note"] == 'says "no"'


def test_csv_is_for_programs_and_names_what_stands_below():
    columns = [Column("Model", numeric=False), Column("−\u00a0b"), Column("Speed")]
    rows = [[Cell("a"), Cell("−0.374", -0.374, sub="worse"), Cell("1\u202f516\u00a0/\u00a0s", sub="−1.0 to 2.5")]]
    (row,) = csv.DictReader(io.StringIO(table_csv(Table("t", "c", columns, rows))))
    assert row == {
        **{"Model": "a", "- b": "-0.374", "- b (below)": "worse"},
        **{"Speed": "1 516 / s", "Speed (interval)": "-1.0 to 2.5"},
    }


def test_latex_is_escaped_aligned_and_carries_the_notes():
    text = table_latex(TABLE)
    assert r"a\_1 & 0.812 (0.790 to 0.831) & best, so far \\" in text
    assert r"\caption{Ranks of 50 \% \& more.}" in text and r"\begin{tabular}{lrl}" in text
    assert r"\label{tab:ranks}" in text and r"\footnotesize --: no positives" in text
    assert text.count("{") == text.count("}") and text.count(r"\begin") == text.count(r"\end")
    with pytest.raises(ValueError, match="row 2 has 1 cells, expected 2"):
        latex_table(["a", "b"], [["1", "2"], ["3"]], caption="x")


def test_a_table_longer_than_a_page_is_a_longtable_and_sentences_are_broken_into_lines():
    rows = [[str(k), "a sentence that is longer than a line of a narrow page has room for"] for k in range(41)]
    text = latex_table(
        ["Item", "From this run"], rows, caption="Check list", numeric=[False, False], notes=["see above"]
    )
    assert r"\begin{longtable}{lp{0.5\linewidth}}" in text and r"\caption{Check list}\\" in text
    assert r"\begin{table}" not in text and text.rstrip().endswith("}")
    assert text.count("{") == text.count("}")
    short = latex_table(["Item", "From this run"], rows[:40], caption="Check list", numeric=[False, False])
    assert r"\begin{tabular}{lp{0.5\linewidth}}" in short and "longtable" not in short


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    spec = SyntheticStudy(label="checklist", cam_cases=2, n_patients=60)
    configuration, results = write_study(tmp_path_factory.mktemp("checklist"), spec)
    return {
        (item.guideline, item.number): item
        for item in reporting_checklist(collect_study(configuration=configuration, results=results))
    }


def test_the_check_list_is_whole(items):
    claim = [number for guideline, number in items if guideline == "CLAIM"]
    assert claim == [str(k) for k in range(1, 43)]
    tripod = {number.rstrip("abcdefg") for guideline, number in items if guideline == "TRIPOD+AI"}
    assert tripod == {str(k) for k in range(1, 28)}


def test_what_the_run_knows_is_filled_and_the_rest_is_the_authors(items):
    assert "no patient is in two parts" in items["CLAIM", "20"].text.lower()
    assert "Patients were divided into" in items["TRIPOD+AI", "12a"].text
    assert "bootstrap" in items["CLAIM", "29"].text
    assert "patients were analysed" in items["CLAIM", "33"].text
    assert all(f"{name} 0." in items["CLAIM", "35"].text for name in MODELS)
    assert items["TRIPOD+AI", "13"].text.startswith("Cases by class: ")
    assert "snakemake" in items["TRIPOD+AI", "18f"].text
    assert f"{MODELS[0]}: random weights" in items["CLAIM", "24"].text
    for key in (("CLAIM", "12"), ("CLAIM", "42"), ("TRIPOD+AI", "17"), ("TRIPOD+AI", "14")):
        assert items[key].answer is None and items[key].text == AUTHOR


def test_absent_artifacts_leave_the_item_to_the_author(tmp_path):
    configuration, results = write_study(tmp_path, SyntheticStudy(label="bare", gradcam=False, n_patients=30))
    for file in results.rglob("audit.json"):
        file.unlink()
    found = {
        (i.guideline, i.number): i
        for i in reporting_checklist(collect_study(configuration=configuration, results=results))
    }
    assert found["CLAIM", "33"].text == AUTHOR and found["CLAIM", "31"].text == AUTHOR


def test_what_unclear_labels_count_as_is_no_secret(tmp_path):
    """A blank that counts as absent is an imputed label: nobody may be told that nothing was imputed."""
    configuration, results = write_study(tmp_path, SyntheticStudy(label="unclear", gradcam=False, n_patients=30))
    (entry,) = configuration["datasets"].values()

    def told():
        study = collect_study(configuration=configuration, results=results)
        items = {(i.guideline, i.number): i.text for i in reporting_checklist(study)}
        return items["CLAIM", "13"], items["CLAIM", "34"], methods_paragraphs(study)[0]

    missing, parts, _ = told()
    assert missing.endswith("nothing was imputed.") and "unknown labels" not in missing
    assert parts.startswith("Fold 0: ") and "train " in parts and "patients (" in parts
    entry["missing_label"] = "mask"
    assert "unknown labels were neither trained nor scored" in told()[0]
    entry |= {"format": "chexpert", "label_values": {"uncertain": {"default": "ones", "Rib": "ignore"}}}
    missing, _, methods = told()
    words = "Uncertain labels counted as present (those of Rib as unknown); labels that are not mentioned counted as "
    words += "absent"
    assert words in missing and words in methods and "nothing was imputed" not in missing
