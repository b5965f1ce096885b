"""The report's section on the ensemble: candidates with intervals, the gain label by label, who was left out."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from planted_labels import LABELS
from report_fixtures import write_study
from synthetic_study import SyntheticStudy
from test_ensemble_candidates import SETTINGS, labels

from archbench.artifacts import read_json, write_json
from archbench.ensemble import build_ensemble
from archbench.report.build import write_report
from archbench.report.ensemble_figures import improvement_panel
from archbench.report.ensemble_words import ensemble_sentences
from archbench.report.figures import render


@pytest.fixture(scope="module")
def decision():
    """A mean that gains on three labels and spoils the fourth, with one member left out."""
    good, helper = labels(noise=1.5, rng=1, patients=400), labels(noise=1.5, rng=2, patients=400)
    helper.logits[:, 3] = 0.5 * np.random.default_rng(0).normal(size=len(good))
    _, found = build_ensemble({"good": good, "helper": helper}, candidates=("mean",), **SETTINGS)
    left_out = [{"name": "third", "reason": "no <predictions>"}]
    return {**found, "left_out": left_out, "member_notes": ["older: folds renumbered as in this study"]}


def test_the_words_name_members_left_out_labels_that_went_back_and_counts(decision):
    text = " ".join(ensemble_sentences(decision))
    assert "third was left out: no <predictions>." in text
    assert "Members from other studies: older: folds renumbered" in text
    delivered = decision["improvement"]["candidates"][-1]
    assert f"As delivered, {delivered['n_improved']} of 4 labels are better than with good alone" in text
    assert "fracture goes back to good: mean is worse here" in text and "edema goes back" not in text
    assert ensemble_sentences({}) == []


def test_a_decision_for_one_model_in_every_fold_counts_no_gains(decision):
    alone = [{"fold": k, "choice": "best base (good)"} for k in range(5)]
    text = " ".join(ensemble_sentences({**decision, "per_fold_choice": alone}))
    assert "As delivered it is one model alone: good" in text and "labels are better" not in text


def test_candidates_that_could_not_be_tried_are_named_together():
    skipped = [{"name": name, "reason": "the task predicts a number"} for name in ("weighted", "mlp")]
    assert ensemble_sentences({"skipped": skipped}) == [
        "weighted and mlp could not be tried: the task predicts a number."
    ]


def test_the_heat_map_draws_every_gain(decision):
    panel = improvement_panel(decision)
    assert panel is not None and "label by label" in panel.title
    for column in decision["improvement"]["candidates"]:
        assert f"{column['name']}: {column['n_improved']} of {len(LABELS)} labels better" in panel.alt
    picture = render(panel)
    assert b"<svg" in base64.b64decode(picture.uri.partition(",")[2])
    assert improvement_panel({**decision, "improvement": None}) is None


def test_without_a_label_that_can_be_scored_nothing_is_said_or_drawn(decision):
    nothing = {**decision["improvement"], "labels": [], "base_values": []}
    text = " ".join(ensemble_sentences({**decision, "improvement": nothing}))
    assert "As delivered" not in text and "third was left out" in text
    assert improvement_panel({**decision, "improvement": nothing}) is None


def test_an_undefined_gain_stays_blank(decision):
    found = decision["improvement"]
    column = found["candidates"][0]
    holes = {**column, "gains": [{"value": None, "low90": None, "high90": None}] * len(LABELS)}
    panel = improvement_panel({**decision, "improvement": {**found, "candidates": [holes]}})
    assert panel is not None
    assert render(panel).uri  # without a warning: they are errors here


def test_the_page_shows_the_decision(tmp_path: Path, decision):
    configuration, results = write_study(tmp_path, SyntheticStudy(label="ensemble", gradcam=False, n_patients=30))
    (path,) = results.glob("*/ensemble/decision.json")
    write_json(
        path, {**read_json(path), **{key: decision[key] for key in decision if key not in ("primary", "labels")}}
    )
    write_report(configuration=configuration, results=results, output=results, logs=tmp_path / "logs")
    page = (results / "report.html").read_text(encoding="utf-8")
    section = page.partition('<section id="ensemble">')[2].partition("</section>")[0]
    assert "third was left out: no &lt;predictions&gt;" in section and "<predictions>" not in section
    assert "What the ensemble gains, and where" in section and section.count("data:image/svg+xml") == 2
    assert "Members and candidates by" in section and "Heat map of the gain over the best member good" in section


def test_a_decision_of_an_older_run_still_gets_its_page(tmp_path: Path):
    configuration, results = write_study(tmp_path, SyntheticStudy(label="older", gradcam=False, n_patients=30))
    write_report(configuration=configuration, results=results, output=results, logs=tmp_path / "logs")
    assert "What the ensemble gains, and where" not in (results / "report.html").read_text(encoding="utf-8")
