"""Teachers in folds for tests: train's groups, and models for them that nobody trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from target_stores import make_teacher

from pipeline.core.weights import load_weights, save_weights
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.models.folds import LEFT_OUT, assign_folds, fold_path, left_out_digest, write_folds
from pipeline.models.recognizer import load_model


def give_groups(folder, *, number=4):
    """Put the videos of each split into so many groups, one after the other; returns the manifest."""
    path, places = folder / "manifest.csv", Counter()
    rows = []
    for row in read_manifest(path).rows:
        rows.append(replace(row, group=f"{row.split} {places[row.split] % number}"))
        places[row.split] += 1
    return write_manifest(path, rows)


def make_folds(folder, manifest, num_folds, *, seed=0):
    """Models of folds in a folder, each with weights of its own; returns the fold of each group."""
    videos = [(row.group, row.class_name) for row in manifest.rows_of("train")]
    groups = assign_folds(videos, num_folds, seed=seed) if num_folds else {}
    digests = []
    for fold in range(num_folds):
        path = fold_path(folder, fold)
        make_teacher(path, seed=10 + fold)
        tensors, attributes = load_weights(path)
        trained_on = {"digests": {LEFT_OUT: left_out_digest(groups, fold)}}
        save_weights(path, tensors, {**attributes, "trained_on": trained_on})
        digests.append(load_model(path).digest)
    write_folds(folder, groups, digests)
    return groups
