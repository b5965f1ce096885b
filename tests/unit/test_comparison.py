"""Verdicts, ranks and p values of whole comparisons."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import planted

from archbench.comparison import compare
from archbench.evaluation import evaluate
from archbench.verdicts import default_delta, verdict

SETTINGS = {"primary": "qwk", "resamples": 1000, "confidence": 0.95, "seed": 0}


def test_a_planted_ranking_is_recovered():
    models = {
        "weak": planted(skill=0.5, rng=1),
        "strong": planted(skill=3.0, rng=2),
        "middle": planted(rng=3),
    }
    found = compare(models, **SETTINGS)
    assert [entry["model"] for entry in found["models"]] == ["strong", "middle", "weak"]
    assert found["best"] == "strong" and found["models"][0]["p_rank1"] == 1.0
    assert {(pair["a"], pair["b"]): pair["verdict"] for pair in found["pairs"]} == {
        ("strong", "middle"): "better",
        ("strong", "weak"): "better",
        ("middle", "weak"): "better",
    }
    assert all(pair["p_holm"] >= pair["p"] for pair in found["pairs"])
    json.dumps(found, allow_nan=False)


def test_a_model_is_equivalent_to_itself():
    twin = planted(rng=1)
    (pair,) = compare({"a": twin, "b": twin}, **SETTINGS)["pairs"]
    assert pair["verdict"] == "equivalent" and pair["p"] == 1.0 and pair["difference"] == 0.0


def test_a_model_and_its_copy_are_named_as_tied():
    rows = planted(rng=1, patients=60)
    found = compare({"model": rows, "ensemble": rows, "other": planted(rng=2, patients=60)}, **SETTINGS)
    ties = {row["model"]: row["tied_with"] for row in found["models"]}
    assert ties == {"model": ["ensemble"], "ensemble": ["model"], "other": []}


def test_an_auroc_is_cross_checked_by_delong():
    models = {"strong": planted(skill=2.5, rng=1, patients=200), "weak": planted(skill=1.0, rng=2, patients=200)}
    (pair,) = compare(models, **{**SETTINGS, "primary": "auroc_macro"})["pairs"]
    assert pair["a"] == "strong" and pair["p_delong"] < 0.001 and pair["p"] < 0.01
    assert "p_delong" not in compare(models, **SETTINGS)["pairs"][0]


def test_few_patients_are_inconclusive_not_equal():
    models = {"a": planted(rng=1, patients=40), "b": planted(rng=2, patients=40)}
    (pair,) = compare(models, **SETTINGS)["pairs"]
    assert pair["verdict"] == "inconclusive"


def test_the_direction_of_a_loss_is_turned():
    models = {"weak": planted(skill=0.0, rng=1), "strong": planted(skill=3.0, rng=2)}
    found = compare(models, **{**SETTINGS, "primary": "log_loss"})
    assert found["best"] == "strong" and not found["greater_is_better"]
    (pair,) = found["pairs"]
    assert pair["a"] == "strong" and pair["difference"] < 0 and pair["verdict"] == "better"


@pytest.mark.parametrize(
    ("gain", "significant", "inner", "words"),
    [
        (0.05, True, (0.03, 0.07), "better"),
        (0.008, True, (0.004, 0.012), "better but trivial"),
        (0.004, False, (-0.01, 0.015), "equivalent"),
        (0.02, False, (-0.03, 0.06), "inconclusive"),
        (-0.05, True, (-0.07, -0.03), "worse"),
        (-0.005, True, (-0.009, -0.002), "equivalent"),
        (np.nan, False, (np.nan, np.nan), "inconclusive"),
    ],
)
def test_verdicts(gain, significant, inner, words):
    assert verdict(gain=gain, significant=significant, inner=inner, delta=0.02) == words


def test_margins_depend_on_the_metric():
    assert default_delta("auroc_macro") == 0.01 and default_delta("qwk") == 0.02 and default_delta("mcc") == 0.02
    models = {"a": planted(rng=1, patients=30), "b": planted(rng=2, patients=30)}
    assert compare(models, delta=0.5, **SETTINGS)["pairs"][0]["verdict"] in (
        "equivalent",
        "better but trivial",
    )


def test_seed_variance_makes_a_difference_harder_to_call():
    steady = planted(skill=1.5, rng=1, seeds=(1, 2, 3))
    shaky = planted(skill=1.2, rng=2, seeds=(1, 2, 3))
    extra = np.repeat([0.0, 0.3, 3.0], len(shaky) // 3)[:, None] * np.eye(5)[shaky.y_true]
    shaky = replace(shaky, logits=(shaky.logits + extra).astype(np.float32))
    (pair,) = compare({"steady": steady, "shaky": shaky}, **SETTINGS)["pairs"]
    single = [compare({n: t.select(t.seed == 3) for n, t in (("steady", steady), ("shaky", shaky))}, **SETTINGS)][0][
        "pairs"
    ][0]
    assert pair["high"] - pair["low"] > 2 * (single["high"] - single["low"])
    assert pair["verdict"] == "inconclusive"


def test_other_cases_or_classes_are_refused():
    models = {"a": planted(rng=1, patients=40), "b": planted(rng=2, patients=41)}
    with pytest.raises(ValueError, match="same cases"):
        compare(models, **SETTINGS)
    turned = replace(planted(rng=2, patients=40), classes=("e", "d", "c", "b", "a"))
    with pytest.raises(ValueError, match="classes"):
        compare({"a": planted(rng=1, patients=40), "b": turned}, **SETTINGS)


def test_an_undefined_primary_metric_is_ranked_last_with_a_warning():
    models = {"a": planted(rng=1, patients=40), "b": planted(rng=2, patients=40)}
    for rows in models.values():
        rows.targets[:] = 0.0
    models["b"] = replace(models["b"], logits=np.tile(np.eye(5, dtype=np.float32)[0], (80, 1)))
    found = compare(models, **SETTINGS)
    assert found["models"][-1] == {
        "model": "b",
        "value": None,
        "low": None,
        "high": None,
        "reason": None,
        "mean_rank": None,
        "rank_low": None,
        "rank_high": None,
        "p_rank1": None,
        "rank_shares": None,
        "tied_with": [],
    }
    assert found["pairs"][0]["verdict"] == "inconclusive" and found["pairs"][0]["p"] is None
    assert any("undefined for b" in text for text in found["warnings"])


@pytest.mark.parametrize("primary", ["accuracy", "qwk", "auroc_macro"])
def test_a_model_that_is_always_right_has_the_interval_of_its_own_metrics(primary):
    perfect = planted(rng=1, patients=60)
    logits = 20 * np.eye(5, dtype=np.float32)[perfect.targets[:, 0].astype(int)]
    models = {"perfect": replace(perfect, logits=logits), "other": planted(skill=3.0, rng=2, patients=60)}
    settings = {**SETTINGS, "primary": primary}
    for entry in compare(models, **settings)["models"]:
        record = evaluate(models[entry["model"]], metrics=[primary], **settings)["metrics"][primary]
        assert {key: entry[key] for key in ("value", "low", "high", "reason")} == {
            key: record[key] for key in ("value", "low", "high", "reason")
        }
        assert entry["value"] < 1 or entry["low"] is None or entry["low"] < 0.99


def test_order_of_models_and_rows_does_not_matter():
    models = {"a": planted(rng=1, patients=60), "b": planted(skill=2, rng=2, patients=60)}
    turned = {name: models[name].select(np.arange(120)[::-1]) for name in ("b", "a")}
    assert compare(models, **SETTINGS) == compare(turned, **SETTINGS)


def test_one_model_alone_has_no_pairs():
    found = compare({"only": planted(patients=40)}, **SETTINGS)
    assert found["pairs"] == [] and found["best"] == "only" and found["models"][0]["p_rank1"] == 1.0
