"""What happens to a meta-learner that is fed predictions of cases which its base models were trained on.

    snakemake --cores 2 --configfile config/phantom_stacking.yaml
    PYTHONPATH=. python benchmarks/stacking_story.py --study config/phantom_stacking.yaml --results results

Reads the checkpoints of a finished multilabel study. For each fold, meta-learners are fitted twice: on the base models'
predictions of their own training cases (in-sample), as the published recipe did, and on out-of-fold predictions of
other patients, as the workflow does. All are applied to the same test cases, and the workflow's own ensemble stands
beside them. The in-sample way exists in this script alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from archbench.artifacts import Predictions, read_predictions
from archbench.batches import predict_logits
from archbench.cases import Cases, Part, read_cases
from archbench.combining import Members, member_scores, members_to_fit
from archbench.config import Study, load_study
from archbench.devices import prepare_torch
from archbench.ensemble_candidates import plain_mean
from archbench.label_stacking import solve
from archbench.members import stack_members
from archbench.metrics.auroc import metric_at_cut
from archbench.metrics.scoring import Scores, score
from archbench.models.building import build_network
from archbench.models.weights import load_checkpoint
from archbench.neural_stacking import NetworkSettings, train_network
from archbench.out_of_fold import out_of_fold
from archbench.statistics import PatientWeights, patient_weights, percentile_interval

CPU = torch.device("cpu")
PUBLISHED = NetworkSettings()  # 256 and 128 units, 20 epochs, lr 1e-4
TRAINED = replace(PUBLISHED, epochs=300, lr=1e-3, patience=30)
RIDGE = 3.0  # the weakest penalty that the workflow tries


def main() -> int:
    """Fit both ways on every fold, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, help="study file")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--repeats", type=int, default=5, help="seeds of each network, whose AUROC is averaged")
    parser.add_argument("--resamples", type=int, default=2000, help="of the patients, for the intervals")
    arguments = parser.parse_args()
    prepare_torch(threads=1)
    study = load_study(arguments.study)
    (dataset,) = study.datasets
    folder = arguments.results / study.study / dataset
    tables = {name: read_predictions(folder / name / "predictions.parquet").test.sorted() for name in study.models}
    cases = {name: _cases(study, name, dataset, folder) for name in study.models}
    stacked = stack_members(tables)
    training = {fold: _in_sample(study, dataset, folder, cases, fold) for fold in np.unique(stacked.fold).tolist()}
    drawn = patient_weights(stacked.patient_id, strata=stacked.fold, resamples=arguments.resamples, seed=0)
    base = max((_scores([table], drawn) for table in tables.values()), key=lambda found: found.point)
    print("| | macro AUROC of its own training cases | macro AUROC of test cases |\n|---|---|---|")
    for k, (name, table) in enumerate(tables.items()):
        own = np.mean([_macro_auroc(data.scores[~val, k], data.targets[~val]) for data, val in training.values()])
        print(f"| {name} | {own:.3f} | {_scores([table], drawn).point:.3f} |")
    delivered = read_predictions(folder / "ensemble" / "predictions.parquet").test.sorted()
    for words, table in (
        ("plain mean", _combined(tables, plain_mean(stacked, len(tables)))),
        ("the workflow's ensemble", delivered),
    ):
        print(f"| {words} | | {_against(base, [table], drawn)} |")
    print("\n| meta-learner | fitted in-sample | fitted out of fold |\n|---|---|---|")
    for words, settings in (("MLP as published", PUBLISHED), ("MLP trained to its end", TRAINED), ("logistic", None)):
        seeds = range(arguments.repeats if settings is not None else 1)
        found = [_both_ways(stacked, tables, training, settings, seed) for seed in seeds]
        wrong, right = (_against(base, list(of_way), drawn) for of_way in zip(*found, strict=True))
        print(f"| {words} | {wrong} | {right} |", flush=True)
    return 0


def _against(base: Scores, tables: list[Predictions], drawn: PatientWeights) -> str:
    """AUROC with its difference from the best base model, the latter with its 95 % interval over patients."""
    found = _scores(tables, drawn)
    low, high = percentile_interval(found.mean_draws - base.mean_draws, 0.95)
    return f"{found.point:.3f} ({found.point - base.point:+.3f}, {low:+.3f} to {high:+.3f})"


def _both_ways(
    stacked: Predictions,
    tables: dict[str, Predictions],
    training: dict[int, tuple[Members, np.ndarray]],
    settings: NetworkSettings | None,
    seed: int,
) -> tuple[Predictions, Predictions]:
    """Test cases after a fit on training cases, and after one on other folds' test cases."""
    results = {way: np.empty((len(stacked), len(stacked.labels))) for way in ("wrong", "right")}
    for fold, (in_sample, validation) in training.items():
        inside = stacked.fold == fold
        applied = stacked.select(inside)
        source = out_of_fold(stacked).without(fold)
        honest = members_to_fit(source, applied=applied, n_members=len(tables), seed=int(stacked.seed[0]))
        test = member_scores(applied, len(tables))
        results["wrong"][inside] = _fitted(in_sample, validation, test, settings, seed)
        results["right"][inside] = _fitted(honest, honest.group == honest.group.max(), test, settings, seed)
    return _combined(tables, results["wrong"]), _combined(tables, results["right"])


def _fitted(
    data: Members, held_out: np.ndarray, test: np.ndarray, settings: NetworkSettings | None, seed: int
) -> np.ndarray:
    """Log odds of the test cases; held-out rows choose the epoch of a network and are left out of the regression."""
    if settings is not None:
        return train_network(data, held_out=held_out, seed=seed, settings=settings).scores(test)
    weights, intercept = solve(data.scores[~held_out], data.targets[~held_out], RIDGE)
    return np.einsum("nml,ml->nl", test, weights) + intercept


def _cases(study: Study, model: str, dataset: str, folder: Path) -> Cases:
    size = study.image_size(model)
    (pointer,) = (folder / "data").glob(f"images-{size}-*.json")
    return read_cases(folder / "data" / "manifest.parquet", folder / "data" / "folds.parquet", pointer)


def _in_sample(
    study: Study, dataset: str, folder: Path, cases: dict[str, Cases], fold: int
) -> tuple[Members, np.ndarray]:
    """What the members say of the cases they were trained on; validation rows, marked, choose the epoch."""
    logits, targets, validation = [], np.empty(0), np.empty(0)
    for name, of_model in cases.items():
        network = build_network(**study.network_of(name, dataset), num_classes=len(of_model.classes))
        load_checkpoint(network, folder / name / f"fold{fold}-seed{study.protocol.seeds[0]}" / "best.safetensors", CPU)
        parts: list[Part] = [of_model.part(fold, split) for split in ("train", "val")]
        rows = np.concatenate([part.rows for part in parts])
        logits.append(predict_logits(network, of_model.cache.images, rows, batch_size=32, device=CPU))
        targets = np.concatenate([part.targets for part in parts])
        validation = np.repeat([False, True], [len(part) for part in parts])
    scores = np.stack(logits, axis=1).astype(np.float64)
    return Members(scores, targets, True, validation.astype(int)), validation


def _combined(tables: dict[str, Predictions], logits: np.ndarray) -> Predictions:
    return replace(next(iter(tables.values())), logits=logits.astype(np.float32))


def _scores(tables: list[Predictions], drawn: PatientWeights) -> Scores:
    """Macro AUROC of test rows as the workflow computes it (per fold, then averaged), mean over tables."""
    found = [score(table, metric_at_cut("auroc_macro", 1), drawn.patients, drawn.weights) for table in tables]
    points, draws = (np.mean([getattr(item, key) for item in found], axis=0) for key in ("points", "draws"))
    return Scores(points, draws)


def _macro_auroc(scores: np.ndarray, targets: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(np.mean([roc_auc_score(y, s) for y, s in zip(targets.T, scores.T, strict=True) if 0 < y.mean() < 1]))


if __name__ == "__main__":
    raise SystemExit(main())
