"""A logistic head on frozen features: where features are taken, how they are kept, and what the head is."""

import errno
import importlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bloodedge.data.dataset import CellFile, inputs, read_dataset
from bloodedge.errors import UsageError
from bloodedge.imaging import ImagingSpec
from bloodedge.logistic.basis import Noise, int8_noise
from bloodedge.logistic.rule import Linear, Rule
from bloodedge.logistic.solver import Problems, solve
from bloodedge_train import zoo
from bloodedge_train.explain.grad_cam import cut, grad_cam
from bloodedge_train.heads import features as feature_code
from bloodedge_train.heads.backbone import Backbone, open_backbone, with_heads
from bloodedge_train.heads.cache import FeatureCache, key_of
from bloodedge_train.heads.extract import KerasExtractor, OpenVINOExtractor
from bloodedge_train.heads.features import FeatureSpec, features, int8_features
from bloodedge_train.heads.int8 import stored, with_int8_activations
from bloodedge_train.heads.logistic import Bears, Head, Shown, fit_head, inner_folds, weigh
from bloodedge_train.recipe import HeadSpec
from bloodedge_train.zoo.depths import block_ends, layers_at

SIZE = 48
IMAGING = ImagingSpec(size_px=SIZE, um_per_px=0.4, views=("physical", "canonical"))
DEPTHS = (0.5, 1.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(4)
    path = tmp_path_factory.mktemp("weights") / "edgenet.weights.h5"
    importlib.import_module("bloodedge_train.zoo.edgenet").features(SIZE).save_weights(path)
    return path


@pytest.fixture(scope="module")
def backbone(weights: Path) -> Backbone:
    return open_backbone("edgenet", SIZE, DEPTHS, str(weights))


@pytest.fixture(scope="module")
def cells(rendered_data: Path) -> list[CellFile]:
    return read_dataset(rendered_data).unique[:20]


@pytest.mark.parametrize(
    ("model", "depths", "expected"),
    [
        ("mobilenetv2", (1.0, 0.6, 0.8), ["block_9_add", "block_12_add", "out_relu"]),
        ("mobilenetv2", ("block_13_expand_relu", 1.0), ["block_13_expand_relu", "out_relu"]),
        ("efficientnet_lite0", (0.6, 1.0), ["block10_add", "top_relu"]),
        ("edgenet", (0.999, 1.0), ["block7_pointwise_relu"]),
    ],
)
def test_depths_are_ends_of_blocks(model: str, depths: Sequence[float | str], expected: list[str]) -> None:
    assert layers_at(zoo.family(model).features(64), depths) == expected


@pytest.mark.parametrize("model", ["mobilenetv2", "regnetx016", "edgenet", "vgg19"])
def test_all_that_comes_after_the_end_of_a_block_is_computed_from_it(model: str) -> None:
    network = zoo.family(model).features(64)
    ends = block_ends(network)
    assert len(ends) > 2
    for name in ends[:-1]:
        keras.Model(network.get_layer(name).output, network.output)  # raises ValueError where a path leads past it


def test_an_unknown_layer_is_named_with_the_nearest(weights: Path) -> None:
    with pytest.raises(
        UsageError, match=r'no feature map "block7_pointwise_rel"\. Did you mean "block7_pointwise_relu"'
    ):
        open_backbone("edgenet", SIZE, ["block7_pointwise_rel"], str(weights))


def test_a_head_needs_features_that_were_learnt() -> None:
    with pytest.raises(UsageError, match="--weights imagenet or --weights PATH"):
        open_backbone("edgenet", SIZE, DEPTHS, "none")


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(UsageError, match="holds the weights of another network than efficientnet_lite0"):
        open_backbone("efficientnet_lite0", SIZE, DEPTHS, str(weights))


def test_openvino_and_keras_compute_the_same_features(backbone: Backbone, cells: list[CellFile]) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed (pip install -e '.[openvino]')")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("OpenVINO reads Keras' networks on TensorFlow only: KERAS_BACKEND=tensorflow")
    frames = inputs(cells, IMAGING).reshape(-1, SIZE, SIZE, 3)
    for ours, theirs in zip(KerasExtractor(backbone)(frames), OpenVINOExtractor(backbone)(frames), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(ours).max())


def test_the_whole_network_gives_what_the_head_gives_on_the_features(backbone: Backbone, cells: list[CellFile]) -> None:
    spec = FeatureSpec(backbone, IMAGING)
    found = features(cells, spec)
    assert found.shape == (len(cells), spec.width) == (20, 2 * sum(backbone.widths))
    rng = np.random.default_rng(0)
    spread = found.std(axis=0)
    coefficients = rng.normal(size=spec.width) / np.where(spread > 1e-6, spread, np.inf) / np.sqrt(spec.width)
    head = Head(
        Rule(Linear(coefficients, -float(found.mean(axis=0) @ coefficients))), 1.0, (), np.empty(0), np.empty(0)
    )
    network = with_heads(backbone, [head], views=2)
    outputs = network.predict(inputs(cells, IMAGING), verbose=0)
    assert outputs.dtype == np.float32
    blasts = head.blast_probability(found)
    assert np.ptp(blasts) > 0.05
    np.testing.assert_allclose(outputs[:, 1], blasts, atol=1e-4)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-6)


def random_rule(width: int, parts: int = 1) -> Rule:
    rng = np.random.default_rng(0)
    return Rule.of([Linear(rng.normal(size=width), 0.3 * number) for number in range(1, parts + 1)])


@pytest.mark.parametrize("parts", [1, 3])
def test_an_opened_rule_adds_what_its_gate_withholds(parts: int) -> None:
    rule, seen = random_rule(6, parts), np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    withheld = rule.withheld(seen)
    assert bool(np.abs(withheld).max() > 1) is (parts == 3)
    for share in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(rule.opened(share).log_odds(seen), rule.log_odds(seen) + share * withheld, atol=1e-5)
    whole = rule.any_bench.log_odds(seen) + (rule.own_bench.more.log_odds(seen) if rule.own_bench else 0)
    np.testing.assert_allclose(rule.opened(1.0).log_odds(seen), whole, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_head_beside_a_rule_tells_cells_of_other_benches_alone(parts: int) -> None:
    rule, seen = random_rule(6, parts), np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    other, own = Linear(np.random.default_rng(2).normal(size=6), 0.7), rule.at_own_bench(seen)
    expected = own * rule.opened(1.0).log_odds(seen) + (1 - own) * other.log_odds(seen)
    np.testing.assert_allclose(rule.beside(other).log_odds(seen), expected, atol=1e-5)
    assert bool(own.max() > 0.5) is (parts == 3)


def weights_of(head: Head) -> NDArray[np.float64]:
    return head.rule.any_bench.weights


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames that each call of an extractor gets."""
    frames: list[int] = []
    make = feature_code.extractor

    def counting(backbone: Backbone) -> Any:
        extract = make(backbone)
        return lambda images: (frames.append(len(images)), extract(images))[1]

    monkeypatch.setattr(feature_code, "extractor", counting)
    return frames


def test_features_are_computed_once(
    backbone: Backbone, cells: list[CellFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = counted(monkeypatch)
    spec, cache = FeatureSpec(backbone, IMAGING), FeatureCache(tmp_path)
    first = features(cells[:15], spec, cache)
    assert sum(frames) == 15 * 2
    frames.clear()
    assert np.array_equal(features(cells[:15], spec, cache), first)
    assert not frames
    more = features(cells, spec, cache)
    assert sum(frames) == 5 * 2
    assert np.array_equal(more[:15], first)
    frames.clear()
    other = replace(spec, imaging=IMAGING.model_copy(update={"light": "levelled"}))
    assert not np.allclose(features(cells, other, cache), more)
    assert sum(frames) == 20 * 2


def test_what_was_computed_before_an_interrupt_is_kept(
    backbone: Backbone, cells: list[CellFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_code, "BLOCK", 8)
    spec, cache = FeatureSpec(backbone, IMAGING), FeatureCache(tmp_path)

    def interrupt(done: int, _total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(cells, spec, cache, interrupt)
    frames = counted(monkeypatch)
    features(cells, spec, cache)
    assert sum(frames) == 4 * 2


@pytest.mark.parametrize("damage", [b"no zip", b""])
def test_a_damaged_file_is_computed_again_with_a_sentence(
    damage: bytes, backbone: Backbone, cells: list[CellFile], tmp_path: Path
) -> None:
    spec, said = FeatureSpec(backbone, IMAGING), list[str]()
    first = features(cells, spec, FeatureCache(tmp_path))
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(damage)
    assert np.array_equal(features(cells, spec, FeatureCache(tmp_path, said.append)), first)
    assert said == [f"{path} is damaged; its features are computed again."]
    assert np.array_equal(features(cells, spec, FeatureCache(tmp_path, said.append)), first)
    assert len(said) == 1


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    said = list[str]()
    FeatureCache(tmp_path).store("key", {"a": np.arange(400, dtype=np.float32)})
    (path,) = tmp_path.glob("*.npz")
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(200).tobytes())] ^= 1
    path.write_bytes(bytes(data))
    assert FeatureCache(tmp_path, said.append).load("key", 400) == {}
    assert len(said) == 1


def test_a_full_disk_costs_the_cache_and_not_the_run(
    backbone: Backbone, cells: list[CellFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    said = list[str]()
    spec = FeatureSpec(backbone, IMAGING)
    assert len(features(cells[:3], spec, FeatureCache(tmp_path, said.append))) == 3
    assert len(said) == 1
    assert said[0].startswith("Features are not kept for the next run. ")
    assert "disk is full" in said[0]
    assert not list(tmp_path.iterdir())


def test_the_file_used_longest_ago_goes_first(tmp_path: Path) -> None:
    row = {"a": np.zeros(1000, np.float32)}
    writer = FeatureCache(tmp_path, limit_bytes=14_000)
    for age, key in ((30, "old"), (20, "newer"), (10, "newest")):
        FeatureCache(tmp_path).store(key, row)
        stamp = time.time() - age
        os.utime(tmp_path / f"{key}.npz", (stamp, stamp))
    assert FeatureCache(tmp_path).load("old", 1000)  # used now
    writer.store("just now", row)
    assert {path.stem for path in tmp_path.glob("*.npz")} == {"old", "newest", "just now"}


def test_features_of_another_width_are_a_damaged_file(tmp_path: Path) -> None:
    FeatureCache(tmp_path).store("key", {"a": np.zeros(4, np.float32)})
    assert FeatureCache(tmp_path).load("key", 5) == {}


def test_everything_that_changes_features_changes_the_key(backbone: Backbone) -> None:
    spec = FeatureSpec(backbone, IMAGING)
    keys = {
        spec.key(),
        spec.key(int8="a"),
        spec.key(int8="b"),
        replace(spec, backbone=replace(backbone, digest="0")).key(),
        replace(spec, imaging=ImagingSpec(size_px=SIZE)).key(),
    }
    assert len(keys) == 5
    assert key_of(a=1, b=2) == key_of(b=2, a=1)


def people(seed: int, count: int = 12, each: int = 30) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """Features (N, 12) of which the first tells the classes apart and the second is each person's own."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(count), each)
    labels = (owner % 2).astype(np.int64)
    x = rng.normal(size=(len(owner), 12))
    x[:, 0] += 2.0 * labels
    x[:, 1] += 3 * rng.normal(size=count)[owner]
    x *= 10.0 ** np.arange(-3, 3).repeat(2)
    return x.astype(np.float32) + 5, labels, [f"p{one}" for one in owner]


def test_the_solver_finds_what_scikit_learn_finds() -> None:
    x, labels, _ = people(0)
    rng = np.random.default_rng(1)
    weights = rng.uniform(size=(len(x), 4)) * (rng.uniform(size=(len(x), 4)) < 0.7)
    weights /= weights.sum(axis=0)
    penalties = np.array([0.003, 0.03, 0.3, 3.0])
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    problems = Problems(x, labels, weights.astype(np.float32), penalties)
    coefficients, intercepts = solve(problems)
    for number, penalty in enumerate(penalties):
        theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000)
        theirs.fit(x, labels, sample_weight=weights[:, number])
        expected = theirs.predict_proba(x)[:, 1]
        ours = 1 / (1 + np.exp(-(x @ coefficients[:, number] + intercepts[number])))
        np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_classes_and_people_weigh_evenly() -> None:
    labels = np.array([0] * 5 + [1] * 10)
    groups = ["a"] * 4 + ["b"] + ["c"] * 8 + ["d"] * 2
    weights = weigh(labels, groups, HeadSpec())
    assert [weights[np.array(groups) == one].sum() for one in "abcd"] == pytest.approx([0.25] * 4)
    by_cells = weigh(labels, groups, HeadSpec(people="cells"))
    assert [by_cells[np.array(groups) == one].sum() for one in "abcd"] == pytest.approx([0.4, 0.1, 0.4, 0.1])
    by_root = weigh(labels, groups, HeadSpec(people="sqrt"))
    assert [by_root[np.array(groups) == one].sum() for one in "ab"] == pytest.approx([1 / 3, 1 / 6])


def test_each_person_is_held_back_once_with_both_classes_in_every_fold() -> None:
    _, labels, groups = people(0)
    folds = inner_folds(labels, groups, 5, seed=2)
    assert set(folds) == set(range(5))
    for group in set(groups):
        assert len(set(folds[np.array(groups) == group])) == 1
    assert all(set(labels[folds == fold]) == {0, 1} for fold in range(5))
    assert set(inner_folds(labels, groups, 20, seed=2)) == set(range(6))  # no more than people of a class


def test_a_head_finds_what_classes_share_and_predicts_people_held_back() -> None:
    x, labels, groups = people(3, count=40)
    head = fit_head(x, labels, groups, HeadSpec())
    others, truth, _ = people(99, count=40)
    right = (head.blast_probability(others) > 0.5) == truth
    assert right.mean() > 0.78  # 0.84 is the best that two normals 2 apart allow
    assert head.penalty == min(head.choices, key=lambda tried: tried.loss).penalty
    assert len(head.choices) == len(HeadSpec().penalties)
    held = ((head.inner > 0.5) == labels).mean()
    assert held < ((head.blast_probability(x) > 0.5) == labels).mean() + 0.01


def test_a_person_held_back_is_predicted_without_that_persons_cells() -> None:
    x, labels, groups = people(5)
    of_first, spec = np.array(groups) == "p0", HeadSpec(penalties=(0.1,))
    changed = x.copy()
    changed[of_first, 0] = 2 * x[:, 0].mean() - x[of_first, 0]  # as a blast's, and the spread stays
    before, after = fit_head(x, labels, groups, spec), fit_head(changed, labels, groups, spec)
    together = before.folds == before.folds[of_first][0]
    moved = np.abs(before.inner - after.inner)
    assert moved[together & ~of_first].max() < 0.02  # only the feature's mean tells, a little
    assert moved[~together].max() > 0.05


@pytest.mark.parametrize(("lone", "name"), [(0, "hem"), (1, "all")])
def test_a_class_with_one_person_is_refused(lone: int, name: str) -> None:
    x, labels, groups = people(0)
    kept = (labels != lone) | (np.array(groups) == f"p{lone}")
    with pytest.raises(UsageError, match=f"Only 1 independent group of subjects to train on with {name} cells"):
        fit_head(x[kept], labels[kept], [g for g, k in zip(groups, kept, strict=True) if k], HeadSpec())


@pytest.mark.parametrize(
    ("depths", "views", "parts"), [((0.5, 1.0), 2, 1), ((0.5, 1.0), 1, 3), ((0.5, 1.0), 1, 1), ((1.0,), 2, 1)]
)
def test_a_head_is_explained_from_its_lowest_depth_on(
    depths: tuple[float, ...], views: int, parts: int, weights: Path, cells: list[CellFile], tmp_path: Path
) -> None:
    backbone, imaging = open_backbone("edgenet", SIZE, depths, str(weights)), IMAGING
    imaging = IMAGING.model_copy(update={"views": IMAGING.views[:views]})
    width = FeatureSpec(backbone, imaging).width
    head = Head(random_rule(width, parts), 1.0, (), np.empty(0), np.empty(0))
    with_heads(backbone, [head], views).save(tmp_path / "model.keras")
    network = cut(keras.models.load_model(tmp_path / "model.keras"))
    images = inputs(cells[:3], imaging)
    maps, logits = grad_cam(network, images, label=1)
    assert maps.shape[0] == 3
    assert maps.ndim == (4 if views > 1 else 3)
    expected = head.blast_probability(features(cells[:3], FeatureSpec(backbone, imaging)))
    np.testing.assert_allclose(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), expected, atol=1e-4)
    assert maps.max() > 0


def test_a_head_keeps_off_what_int8_blurs() -> None:
    rng = np.random.default_rng(0)
    x, labels, groups = people(2, count=20)
    x[:, 3] = x[:, 2] + 0.02 * (labels - 0.5) + 0.01 * rng.normal(size=len(x))  # a small difference tells as much
    noise = np.zeros((200, x.shape[1]), np.float32)
    noise[:, 3] = 0.1 * rng.normal(size=200)
    noise -= noise.mean(axis=0)
    spec = HeadSpec(penalties=(1e-4,))
    trusting, wary = (
        fit_head(x, labels, groups, spec, bears=Bears(int8=Noise(noise, weight))) for weight in (0.0, 1000.0)
    )
    added = [float((noise @ weights_of(head)).std() / (x @ weights_of(head)).std()) for head in (trusting, wary)]
    assert added[0] > 0.5
    assert added[1] < added[0] / 5
    assert ((wary.blast_probability(x) > 0.5) == labels).mean() > 0.8


def test_a_feature_that_hardly_varies_does_not_drown_the_others_in_int8() -> None:
    x, labels, groups = people(2, count=20)
    x = x[:, 4:] / x[:, 4:].std(axis=0)  # columns of noise
    x[:, 0] += 2 * labels
    x[:, 1] = x[:, 0] * 1e-5
    x = x.astype(np.float32)
    steps = np.repeat(np.ptp(x) / 255, x.shape[1])
    largest = {}
    for name, known in (("unknown", None), ("known", steps)):
        head = fit_head(x, labels, groups, HeadSpec(penalties=(0.1,)), bears=Bears(steps=known))
        weights, bias = weights_of(head), head.rule.any_bench.bias
        largest[name] = np.abs(weights).max() / np.abs(weights[0])
        rounded = np.round(weights / np.abs(weights).max() * 127) * np.abs(weights).max() / 127
        as_int8 = (x @ rounded + bias > 0) == (x @ weights + bias > 0)
        assert (as_int8.mean() > 0.98) == (known is not None)
    assert largest["unknown"] > 1000
    assert largest["known"] < 10


def test_noise_is_of_the_activations_that_int8_stores(
    backbone: Backbone, cells: list[CellFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = inputs(cells, IMAGING).reshape(-1, SIZE, SIZE, 3)
    rounded = with_int8_activations(backbone, frames)
    spec = FeatureSpec(backbone, IMAGING)
    exact, changed = int8_features(cells, spec, FeatureCache(tmp_path))
    assert np.array_equal(exact, features(cells, spec))
    noise = int8_noise(exact, changed, 1.0).changes
    assert noise.shape == (len(cells), spec.width)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=1e-5)
    assert 0 < np.abs(noise).max() < 0.1 * np.abs(features(cells, spec)).max()
    found = KerasExtractor(replace(backbone, pooled=as_map(rounded)))(frames[:2])[0]
    steps = found / np.abs(found[found != 0]).min()
    assert len(np.unique(found)) <= 256
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-2)
    counted_frames = counted(monkeypatch)
    assert np.array_equal(int8_features(cells, spec, FeatureCache(tmp_path))[1], changed)
    assert not counted_frames


def as_map(backbone: Backbone) -> Any:
    """The network up to the last feature map, flattened, that ``pooled`` averages."""
    last = backbone.pooled.outputs[-1]._keras_history.operation.input
    return keras.Model(backbone.pooled.inputs, [keras.layers.Flatten()(last)])


def test_an_engine_rounds_what_it_cannot_fuse() -> None:
    frame = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stem")(frame)
    x = keras.layers.BatchNormalization(name="stem_norm")(x)
    x = keras.layers.ReLU(6, name="stem_relu")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = keras.layers.BatchNormalization(name="depthwise_norm")(y)
    both = keras.layers.Add(name="both")([x, y])
    assert stored(keras.Model(frame, both)) == ["stem_relu", "depthwise_norm", "both"]


def seen_at(bench: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features whose colour, the second, says nothing at the other bench, where a third one is another."""
    seen = x.copy()
    if bench:
        seen[:, 1] = np.random.default_rng(bench).normal(0, 3, len(x))
        seen[:, 2] += 0.06
    return seen


def test_a_head_goes_by_colour_at_its_own_bench_alone() -> None:
    x, labels, groups = people(2, count=30)
    x[:, 1] = 1.5 * (2 * labels - 1) + np.random.default_rng(7).normal(size=len(x))
    cameras = Shown(x, x, np.array(groups))
    bears = Bears(cameras=cameras, benches=Shown(x, seen_at(1, x), np.array(groups)))
    spec = HeadSpec(penalties=(0.1,), bench_noise=3.0)
    plain, both = fit_head(x, labels, groups, spec), fit_head(x, labels, groups, spec, bears=bears)
    others, truth, _ = people(50, count=40)
    others[:, 1] = 1.5 * (2 * truth - 1) + np.random.default_rng(8).normal(size=len(others))

    def right(head: Head, bench: int) -> float:
        return float(((head.blast_probability(seen_at(bench, others)) > 0.5) == truth).mean())

    assert right(both, 0) > right(plain, 0) - 0.01
    assert right(plain, 2) < 0.7
    assert right(both, 2) > 0.75
    assert abs(((both.inner > 0.5) == labels).mean() - ((plain.inner > 0.5) == labels).mean()) < 0.02


@pytest.mark.parametrize("views", [1, 2])
def test_the_network_holds_both_rules_and_the_gate(backbone: Backbone, cells: list[CellFile], views: int) -> None:
    imaging = IMAGING.model_copy(update={"views": IMAGING.views[:views]})
    found = features(cells, FeatureSpec(backbone, imaging))
    spread = found.std(axis=0)
    scale = 1 / np.where(spread > 1e-6, spread, np.inf) / np.sqrt(found.shape[1])
    weights = [part.weights * scale for part in random_rule(found.shape[1], 3).linear]
    first = Rule.of([Linear(part, 0.3 - float(found.mean(axis=0) @ part)) for part in weights])
    change = Linear(0.1 * scale, 0.2 - 0.1 * float(found.mean(axis=0) @ scale))
    rules = [first, first.changed(0.5, change)]
    heads = [Head(rule, 1.0, (), np.empty(0), np.empty(0)) for rule in rules]
    outputs = with_heads(backbone, heads, views).predict(inputs(cells, imaging), verbose=0)
    assert outputs.shape == (len(cells), 2, 2)
    for number, head in enumerate(heads):
        np.testing.assert_allclose(outputs[:, number, 1], head.blast_probability(found), atol=1e-4)
        assert np.ptp(outputs[:, number, 1]) > 0.02
    expected = 0.5 * first.log_odds(found) + change.log_odds(found)
    np.testing.assert_allclose(rules[1].log_odds(found), expected, rtol=1e-3, atol=1e-3)
