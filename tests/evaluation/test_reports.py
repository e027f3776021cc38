"""Reports: every number equals its metric, intervals hold it, and no threshold can be fitted here."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from toys import TINY, all_pairs, config, image_set, model

from common.backbones import EmbeddingNet, SiameseNet, embed, new_model
from common.datasets.splits import make_splits
from common.evaluation import metrics, reports
from common.evaluation.metrics import Threshold, accuracy, equal_error_rate, fit_threshold, roc_auc
from common.evaluation.retrieval import cmc, retrieval
from common.training import Trained

COLUMNS = ["metric", "value", "low", "high", "n", "threshold_from"]
THRESHOLD = Threshold(0.4, "validation")


@pytest.fixture
def run(tmp_path):
    return dataclasses.replace(config(tmp_path), embedding_size=8)


@pytest.fixture(scope="module")
def pictures():
    return image_set()


@pytest.fixture
def splits(pictures, run):
    return make_splits(pictures, run)


def judged(seed=0, shift=1.0):
    """Noisy scores of all pairs of 24 pictures, whose rows lie far apart in the data set."""
    labels = np.full(1000, -1)
    indices = np.arange(24) * 40
    labels[indices] = np.arange(24) % 4
    pairs = all_pairs(labels, indices)
    return np.random.default_rng(seed).normal(size=len(pairs)) + shift * pairs[:, 2], pairs


def test_verification_report():
    scores, pairs = judged()
    report = reports.verification_report(scores, pairs, THRESHOLD).set_index("metric")
    expected = metrics.verification_rates(scores, pairs[:, 2], THRESHOLD)
    assert list(report.reset_index()) == COLUMNS and list(report.index) == list(expected)
    for metric, value in expected.items():
        measure = lambda weights, m=metric: metrics.verification_rates(scores, pairs[:, 2], THRESHOLD, weights)[m]  # noqa: E731
        by_pictures, row = metrics.pair_interval(measure, pairs), report.loc[metric]
        assert row.value == pytest.approx(value) and 0 <= row.low < row.value < row.high <= 1
        assert (row.low, row.high) == pytest.approx((by_pictures["low"], by_pictures["high"]))
        assert row.n == len(pairs) and row.threshold_from == ("validation" if metric.startswith("accuracy") else "")
    once = reports.verification_report(scores, pairs, THRESHOLD, rounds=1)
    assert once["low"].equals(once["high"]), "one resample has one value"
    with pytest.raises(AttributeError):
        reports.verification_report(scores, pairs, 0.4)  # a bare number bears no source


def test_the_gap_of_two_approaches():
    scores, pairs = judged()
    better, worse = np.stack([judged(seed, 2.0)[0] for seed in range(3)]), np.stack([scores] * 3)
    found = reports.difference(better, worse, pairs)
    values = [roc_auc(one, pairs[:, 2]) - roc_auc(scores, pairs[:, 2]) for one in better]
    assert found["value"] == pytest.approx(np.mean(values))
    assert 0 < found["low"] < found["value"] < found["high"]
    back = reports.difference(worse, better, pairs)
    assert (back["value"], back["low"], back["high"]) == pytest.approx((-found["value"], -found["high"], -found["low"]))
    none = reports.difference(worse, worse, pairs)
    assert (none["value"], none["low"], none["high"]) == (0, 0, 0), "the same pictures are resampled for both"
    other = reports.difference(better[:1], worse[:1], pairs, measure=equal_error_rate)
    errors = [equal_error_rate(one, pairs[:, 2]) for one in (better[0], scores)]
    assert other["value"] == pytest.approx(errors[0] - errors[1])


def test_the_gap_of_approaches_that_share_their_errors_is_narrow():
    scores, pairs = judged()
    better = scores + 0.05 * pairs[:, 2]
    gap = reports.difference(better[None], scores[None], pairs)
    row = reports.verification_report(scores, pairs, THRESHOLD).iloc[0]
    assert gap["low"] > 0 and gap["high"] - gap["low"] < 0.3 * (row.high - row.low)


def test_seeds_widen_the_gap():
    scores, pairs = judged()
    apart = np.stack([scores - 0.9 * pairs[:, 2], scores + 0.9 * pairs[:, 2], scores])
    one = reports.difference(scores[None] + 0.1 * pairs[:, 2], scores[None], pairs)
    several = reports.difference(apart, np.stack([scores] * 3), pairs)
    assert several["high"] - several["low"] > 2 * (one["high"] - one["low"])
    assert several["low"] < 0 < several["high"]


def test_reports_of_a_search():
    labels, cameras = np.append(np.arange(30) % 5, 9), np.append(np.arange(30) // 15, 0)  # the last one comes once
    embeddings = np.random.default_rng(0).normal(size=(31, 5)) + 0.7 * np.eye(5)[labels % 5]
    ranks = ["cmc_at_1", "cmc_at_5", "cmc_at_10", "map"]
    for report, expected, names in (
        (reports.retrieval_report(embeddings, labels), retrieval(embeddings, labels), [*retrieval(embeddings, labels)]),
        (reports.reid_report(embeddings, labels, cameras), cmc(embeddings, labels, cameras), ranks),
    ):
        assert list(report) == COLUMNS and list(report["metric"]) == names
        for row, values in zip(report.itertuples(), expected.values(), strict=True):
            assert row.value == pytest.approx(np.mean(values[:30])) and row.n == 30 and row.threshold_from == ""
            assert 0 <= row.low < row.value < row.high <= 1
    with pytest.raises(ValueError, match="cmc_at_1 cannot be measured"):
        reports.reid_report(embeddings, labels, labels)


def test_retrieval_reports_take_the_similarity_of_a_model():
    embeddings = np.array([[1.0, 0], [9, 0], [1, 1], [8, 1]])  # by direction 0-1 and 2-3, by distance 0-2 and 1-3
    labels, near = np.array([0, 1, 0, 1]), lambda a, b: -(a - b).square().sum(-1)
    for report in (reports.retrieval_report, reports.reid_report):
        assert report(embeddings, labels, similarity=near)["value"].eq(1).all()
        assert report(embeddings, labels)["value"].iloc[0] == 0


def test_decision_report():
    scores, pairs = judged()
    parts = dict(train=slice(0, 90), validation=slice(90, 200), test=slice(200, None))
    by_split = {split: pairs[part] for split, part in parts.items()}
    report = reports.decision_report({split: scores[part] for split, part in parts.items()}, by_split, THRESHOLD)
    assert list(report) == ["split", "accuracy", "precision", "recall", "f1", "pairs", "threshold_from"]
    for row, (split, part) in zip(report.to_dict("records"), parts.items(), strict=True):
        same = pairs[part, 2]
        expected = dict(accuracy=accuracy(scores[part], same, THRESHOLD))
        expected |= metrics.precision_recall_f1(scores[part], same, THRESHOLD)
        assert row == dict(split=split, **expected, pairs=len(same), threshold_from="validation")
    assert report["f1"].nunique() == 3
    assert list(reports.decision_report({"test": scores[200:]}, by_split, THRESHOLD)["split"]) == ["test"]


def test_class_report():
    predicted, labels = np.array([0, 1, 2, 2, 1, 0, 0, 0]), np.array([0, 1, 2, 0, 1, 0, 1, 0])
    (row,) = reports.class_report(predicted, labels).to_dict("records")
    assert row["metric"] == "class_accuracy" and row["value"] == pytest.approx(6 / 8) and row["n"] == 8
    assert 0.3 < row["low"] < row["value"] < row["high"] <= 1


def test_embed_all_fills_the_rows_asked_for():
    net, pictures = model(), image_set(4, 3)
    indices = np.array([[7, 2], [2, 5]])
    embeddings = reports.embed_all(net, pictures, indices)
    assert embeddings.shape == (12, 8)
    np.testing.assert_allclose(embeddings[[2, 5, 7]], embed(net, pictures.images[[2, 5, 7]]), atol=1e-6)
    assert not embeddings[[0, 1, 3, 4, 6, 8, 9, 10, 11]].any()


def test_pair_scores_are_those_of_the_model_in_evaluation_mode():
    net, asked, embeddings = torch.nn.Linear(2, 2), [], np.array([[0, 0], [3, 4], [1, 0]], np.float32)
    net.score_embeddings = lambda a, b: asked.append((net.training, len(a))) or -(a - b).square().sum(-1)
    pairs = np.array([[0, 1, 0], [1, 1, 1], [2, 1, 0], [0, 2, 1], [2, 0, 1]] * 1000)
    scores = reports.pair_scores(net, embeddings, pairs)
    assert scores.tolist() == [-25, 0, -20, -1, -1] * 1000 and scores.dtype == np.float32
    assert asked == [(False, 4096), (False, 904)], "a bounded number of pairs at a time"
    assert net.training and net.eval() is net
    reports.pair_scores(net, embeddings, np.array([[0, 1]]))
    assert not net.training


def test_embeddings_are_named_by_the_classifier():
    judge = model(classes=3).eval()
    embeddings = 9 * np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    weight, bias = (tensor.detach().numpy() for tensor in (judge.classifier.weight, judge.classifier.bias))
    found = reports.named(judge, embeddings)
    assert found.tolist() == [int(np.argmax(weight @ one + bias)) for one in embeddings] and len(set(found)) == 3


@pytest.mark.parametrize("network", [EmbeddingNet, SiameseNet])
def test_evaluation_follows_the_protocol(run, pictures, splits, network):
    model = new_model(run, TINY, 0, network).eval()
    found = reports.evaluate(model, pictures, splits, "closed_set")
    pairs, test = splits.pairs["closed_set"], splits.parts["closed_set"]["test"]
    assert set(found.scores) == {"train", "validation", "test"}
    with torch.no_grad():
        first, second = (torch.from_numpy(pictures.images[pairs["test"][:5, side]]).float() / 255 for side in (0, 1))
        np.testing.assert_allclose(found.scores["test"][:5], model.score(first, second).numpy(), atol=1e-4)
    expected = fit_threshold(found.scores["validation"], pairs["validation"][:, 2], "validation")
    assert found.threshold == expected
    report = found.report.set_index("metric")["value"]
    assert report["roc_auc"] == pytest.approx(roc_auc(found.scores["test"], pairs["test"][:, 2]))
    assert report["accuracy"] == pytest.approx(accuracy(found.scores["test"], pairs["test"][:, 2], expected))
    rated = retrieval(found.embeddings[test], pictures.labels[test], reports.similarity_of(model))
    assert report["precision_at_1"] == pytest.approx(rated["precision_at_1"].mean())
    assert "cmc_at_1" not in report


def test_all_trainings_are_evaluated_and_make_rows(run, pictures, splits):
    network = new_model(run, TINY, 0, SiameseNet).eval()
    histories = [pd.DataFrame({"seconds": [1.0, seconds]}) for seconds in (2.0, 3.0)]
    runs = [Trained(network, history, pd.DataFrame(), 1.0) for history in histories]
    tested, rows = reports.evaluate_all({"closed_set": {"siamese": runs}}, [5, 6], pictures, splits)
    assert [len(found) for found in tested["closed_set"].values()] == [2]
    report = tested["closed_set"]["siamese"][1].report
    mine = rows.query("seed == 6")
    assert mine["value"].tolist() == report["value"].tolist() and set(mine["train_seconds"]) == {3.0}
    assert set(rows["approach"]) == {"siamese"} and set(rows["protocol"]) == {"closed_set"}


def test_models_that_name_classes_have_a_row_more_in_the_closed_set(run, pictures, splits):
    network = new_model(run, TINY, 0, classes=len(pictures.class_names)).eval()
    trained = [Trained(network, pd.DataFrame({"seconds": [1.0]}), pd.DataFrame(), 1.0)]
    both = {protocol: {"named": trained} for protocol in splits.protocols}
    tested, rows = reports.evaluate_all(both, [5], pictures, splits)
    (row,) = rows.query("metric == 'class_accuracy'").to_dict("records")
    test = splits.parts["closed_set"]["test"]
    said = reports.named(network, tested["closed_set"]["named"][0].embeddings[test])
    assert row["protocol"] == "closed_set" and row["value"] == (said == pictures.labels[test]).mean()


def test_a_comparison_has_the_values_of_all_and_the_differences_to_one(run, pictures, splits):
    starts = {"a": 0, "b": 7}
    models = {name: [new_model(run, TINY, start + seed).eval() for seed in (0, 1)] for name, start in starts.items()}
    found = reports.comparison(models, "b", pictures, splits, "closed_set", "test")
    assert list(found["metric"]) == ["roc_auc"] * 2 + ["map_at_r"] * 2 and list(found["name"]) == ["b", "a"] * 2
    judged = {name: [reports.evaluate(one, pictures, splits, "closed_set") for one in models[name]] for name in models}
    for _, row in found.iterrows():
        reported = [one.report.set_index("metric")["value"][row["metric"]] for one in judged[row["name"]]]
        assert row["value"] == pytest.approx(np.mean(reported)) and np.isnan(row["low"]) == (row["name"] == "b")
    scores = ([one.scores["test"] for one in judged[name]] for name in ("a", "b"))
    gap = reports.difference(*scores, splits.pairs["closed_set"]["test"])
    assert found.loc[1, ["low", "high"]].tolist() == pytest.approx([gap["low"], gap["high"]])


def test_features_are_compared_with_the_first_of_them():
    labels, generator = np.arange(28) % 4, np.random.default_rng(0)
    pairs, good = all_pairs(labels), np.eye(4)[labels] + 0.1
    features = {"noise": generator.normal(size=(28, 4)), "good": good + generator.normal(size=good.shape) / 4}
    found = reports.feature_comparison(features, pairs).set_index("row")
    scores = {name: metrics.cosine_scores(one, pairs) for name, one in features.items()}
    assert found["value"].to_dict() == {name: roc_auc(one, pairs[:, 2]) for name, one in scores.items()}
    assert found.loc["noise", ["low", "high"]].isna().all() and [*found.index] == ["noise", "good"]
    gap = reports.difference(scores["good"][None], scores["noise"][None], pairs)
    assert found.loc["good", ["low", "high"]].to_dict() == {"low": gap["low"], "high": gap["high"]}


def test_only_a_model_known_to_score_by_the_cosine_is_searched_by_it(run):
    cosine, logit = new_model(run, TINY, 0), new_model(run, TINY, 0, SiameseNet)
    assert reports.similarity_of(cosine) is None
    assert reports.similarity_of(logit) == logit.score_embeddings
    wrapped = torch.nn.Identity()
    wrapped.score_embeddings = cosine.score_embeddings
    assert reports.similarity_of(wrapped) == cosine.score_embeddings


def test_pictures_by_several_cameras_are_reported_as_persons_are(run, pictures, splits):
    by_camera = dataclasses.replace(pictures, cameras=np.arange(len(pictures)) % 3)
    model, test = new_model(run, TINY, 0).eval(), splits.parts["open_set"]["test"]
    found = reports.evaluate(model, by_camera, splits, "open_set")
    report = found.report.set_index("metric")["value"]
    rated = cmc(found.embeddings[test], by_camera.labels[test], by_camera.cameras[test])
    assert report["cmc_at_1"] == pytest.approx(np.nanmean(rated["cmc_at_1"]))
    assert report["map"] == pytest.approx(np.nanmean(rated["average_precision"]))


def test_the_frozen_backbone_is_judged_by_its_pooled_features(run, pictures, splits):
    report = reports.frozen_report(run, TINY, pictures, splits)
    backbone = new_model(dataclasses.replace(run, embedding_size=0), TINY, run.seed)
    for protocol in ("closed_set", "open_set"):
        expected = reports.evaluate(backbone, pictures, splits, protocol).report
        found = report.query("protocol == @protocol and metric != 'class_accuracy'").reset_index(drop=True)
        pd.testing.assert_frame_equal(found[COLUMNS], expected[COLUMNS])
    train, test = (splits.parts["closed_set"][part] for part in ("train", "test"))
    probed = reports.linear_probe(embed(backbone, pictures.images), pictures.labels, train, test)
    (row,) = report.query("metric == 'class_accuracy'").to_dict("records")
    assert row["protocol"] == "closed_set" and row["value"] == np.mean(probed == pictures.labels[test])
    same = dict(approach="frozen_backbone", variant="standard", split="test", seed=run.seed, train_seconds=0)
    assert (report[list(same)] == pd.Series(same)).all(axis=None)
    open_only = dataclasses.replace(splits, parts={"open_set": splits.parts["open_set"]})
    assert "class_accuracy" not in set(reports.frozen_report(run, TINY, pictures, open_only)["metric"])


def test_features_are_judged_as_a_model_of_the_same_embeddings(pictures, splits):
    net, labels = model().eval(), pictures.labels
    features = {"raw pixels": embed(net, pictures.images), "color": np.eye(len(labels))[labels] + 0.1}
    report = reports.feature_report(features, labels, splits, 7)
    for protocol in splits.protocols:
        of_one = report.query("protocol == @protocol and approach == 'raw pixels'").reset_index(drop=True)
        expected = reports.evaluate(net, pictures, splits, protocol).report
        pd.testing.assert_frame_equal(of_one[COLUMNS], expected[COLUMNS], atol=1e-5)
    assert (report.query("approach == 'color' and metric in ['roc_auc', 'map_at_r']")["value"] == 1).all()
    same = dict(variant="standard", split="test", seed=7, train_seconds=0)
    assert (report[list(same)] == pd.Series(same)).all(axis=None)


def test_what_training_is_watched_by_is_asked_of_the_model(pictures, monkeypatch):
    net, pairs = model().eval(), all_pairs(pictures.labels, np.arange(0, 80, 4))
    scores, same = metrics.cosine_scores(embed(net, pictures.images), pairs), pairs[:, 2]
    expected = dict(validation=roc_auc(scores, same))
    expected |= metrics.precision_recall_f1(scores, same, fit_threshold(scores, same, "validation"))
    assert expected["validation"] > 0.6
    expected["spread"] = metrics.spread(embed(net, pictures.images)[np.arange(0, 80, 4)])
    for listed in (pairs, pairs[::-1]):
        assert reports.validation_report(net, pictures, listed) == pytest.approx(expected, abs=1e-6)
        assert reports.pair_auc(net, pictures, listed) == pytest.approx(expected["validation"], abs=1e-6)
    monkeypatch.setattr(net, "score_embeddings", lambda a, b: -torch.cosine_similarity(a, b))
    assert reports.pair_auc(net, pictures, pairs) == pytest.approx(1 - expected["validation"], abs=1e-6)


def test_linear_probe_separates_and_never_sees_the_labels_it_is_asked_for():
    labels, train, test = np.repeat([3, 5, 9], 20), np.arange(0, 60, 2), np.arange(1, 60, 2)
    features = np.random.default_rng(0).normal(size=(60, 4)) + 6 * (labels[:, None] == [3, 5, 9, 0])
    hidden = np.where(np.arange(60) % 2, -1, labels)
    for known in (labels, hidden):
        assert (reports.linear_probe(features, known, train, test) == labels[test]).all()
