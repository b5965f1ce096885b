"""Two studies case by case: pairing by name, outcomes by hand, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from label_tables import label_table, zone_table
from planted import planted, table

from archbench.case_comparison import as_rows, case_changes, pair_tables
from archbench.metrics.views import score_view


def tiny(logits, **settings):
    return table(
        ["c1", "c2", "c3", "c4"], ["p1", "p1", "p2", "p3"], 0, [0, 1, 1, 0], logits, classes=("no", "yes"), **settings
    )


def test_outcomes_by_hand():
    before = tiny([[2, 0], [2, 0], [0, 1], [3, 0]])
    after = tiny([[2, 0], [0, 2], [1, 0], [3, 0]])
    first, second, notes = pair_tables(before, after.select(np.array([3, 1, 0, 2])))
    changes, counts = case_changes(first, second)
    assert counts == {"both right": 2, "fixed": 1, "broken": 1, "both wrong": 0} and notes == []
    assert [(change.case, change.outcome) for change in changes] == [("c2", "fixed"), ("c3", "broken")]
    assert (changes[0].before, changes[0].after, changes[0].truth, changes[0].patient) == ("no", "yes", "yes", "p1")
    assert changes[0].certainty_after - changes[0].certainty_before == pytest.approx(np.tanh(1.0))
    assert as_rows(changes)[0]["case"] == "c2"


def test_a_study_against_itself_changes_nothing():
    rows = planted(patients=40, seeds=(1, 2))
    changes, counts = case_changes(*pair_tables(rows, rows)[:2])
    assert changes == [] and counts["fixed"] == counts["broken"] == 0


def test_every_label_and_zone_of_a_case_counts_by_itself():
    """Against a count cell by cell: one seed, decisions at a probability of .5, unknown cells left out."""
    before, after = label_table(60, skill=0.5), label_table(60, skill=1.5, rng=2)
    for rows in (before, after):
        rows.targets[7, 1] = np.nan
    changes, counts = case_changes(*pair_tables(before, after)[:2])
    called = [rows.logits > 0 for rows in (before, after)]
    known = ~np.isnan(before.targets)
    right = [side == (before.targets == 1) for side in called]
    assert counts["fixed"] == int((~right[0] & right[1] & known).sum()) > 0
    assert counts["broken"] == int((right[0] & ~right[1] & known).sum())
    assert sum(counts.values()) == known.sum() == 179
    told = {(change.case, change.label) for change in changes}
    differs = (called[0] != called[1]) & known
    assert told == {(before.case_id[i], before.labels[j]) for i, j in np.argwhere(differs)}
    moved = [abs(change.certainty_after - change.certainty_before) for change in changes]
    assert moved == sorted(moved, reverse=True)
    zones, counts = case_changes(*pair_tables(zone_table(60, skill=0.5), zone_table(60, rng=2))[:2])
    assert {change.label for change in zones} == {"upper", "middle", "lower"}
    assert {change.truth for change in zones} <= {"Normal", "Mild", "Moderate", "Severe"}
    assert counts["fixed"] > counts["broken"]


def test_numbers_are_neither_right_nor_wrong():
    numbers = score_view(zone_table(60))
    with pytest.raises(ValueError, match="neither right nor wrong"):
        case_changes(*pair_tables(numbers, numbers)[:2])


def test_a_target_unknown_in_both_studies_is_no_difference():
    rows = label_table(40)
    rows.targets[3, 1] = np.nan
    first, second, notes = pair_tables(rows, rows)
    assert len(first) == len(second) == 40 and notes == []
    known = replace(rows, targets=np.nan_to_num(rows.targets))
    with pytest.raises(ValueError, match="1 cases have another target"):
        pair_tables(rows, known)


def test_other_cases_folds_and_seeds_are_named():
    rows = planted(patients=40, seeds=(1, 2))
    other = planted(patients=40, seeds=(2, 3), rng=5)
    first, second, notes = pair_tables(rows, other)
    assert np.unique(first.seed).tolist() == [2] and notes == ["seeds in both: [2]"]
    apart = planted(patients=40, seeds=(7,), rng=5)
    first, second, notes = pair_tables(rows, apart)
    assert "paired with [7]" in notes[0] and np.unique(second.seed).tolist() == [1]
    fewer = other.select(other.case_id != "case0003")
    assert "1 cases only in the first study were left out" in pair_tables(rows, fewer)[2]
    moved = replace(rows, fold=(rows.fold + 1) % 5)
    first, second, notes = pair_tables(rows, moved)
    assert "the folds differ" in notes[0] and np.array_equal(first.fold, second.fold)


def test_studies_that_do_not_match_are_refused():
    rows = planted(patients=40)
    with pytest.raises(ValueError, match="classes differ"):
        pair_tables(rows, replace(rows, classes=("a", "b", "c", "d", "e")))
    with pytest.raises(ValueError, match="no case is in both"):
        pair_tables(rows, replace(rows, case_id=np.char.add("x", rows.case_id)))
    targets = rows.targets.copy()
    targets[rows.case_id == "case0007"] += 1
    with pytest.raises(ValueError, match=r"another target in the second study.*case0007"):
        pair_tables(rows, replace(rows, targets=targets))
