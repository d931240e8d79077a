"""A head on the features of several networks side by side."""

from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.cli import main
from bloodedge.errors import UsageError
from bloodedge.logistic.rule import Linear, Rule
from bloodedge_train import zoo
from bloodedge_train.cli.train import train
from bloodedge_train.explain.grad_cam import cut, grad_cam
from bloodedge_train.heads.backbone import Backbone, open_backbone, with_heads
from bloodedge_train.heads.logistic import Head
from bloodedge_train.sweep.space import load_space
from bloodedge_train.zoo.macs import count_macs

SIZE = 48
BOTH = "edgenet+mobilenetv2"
DEPTHS = (0.3, "mobilenetv2/block_9_add")
ALONE: dict[str, tuple[float | str, ...]] = {"edgenet": (0.3,), "mobilenetv2": (0.3, "block_9_add")}
HEAD = "[imaging]\nsize_px = 48\n[split]\nvalidation = 0\n[head]\ndepths = {}\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of two networks, with moving statistics of random frames."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(BOTH.split("+")):
        keras.utils.set_random_seed(seed)
        features = zoo.features_of(name, SIZE)
        for layer in features.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        features(np.random.default_rng(seed).uniform(-1, 1, (4, SIZE, SIZE, 3)), training=True)
        features.save_weights(folder / f"{name}.weights.h5")
    return folder


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def backbone(weights: Path) -> Backbone:
    return open_backbone(BOTH, SIZE, DEPTHS, str(weights))


def head_on(backbone: Backbone, views: int) -> Head:
    width = views * sum(backbone.widths)
    return Head(Rule(Linear(np.random.default_rng(0).normal(size=width), 0.3)), 1.0, (), np.empty(0), np.empty(0))


def pooled(backbone: Backbone, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    found = backbone.pooled.predict(frames, verbose=0)
    return found if isinstance(found, list) else [found]


def test_each_network_gives_the_features_that_it_gives_alone(
    weights: Path, backbone: Backbone, frames: NDArray[np.uint8]
) -> None:
    alone = [open_backbone(name, SIZE, depths, str(weights / f"{name}.weights.h5")) for name, depths in ALONE.items()]
    expected = [values for one in alone for values in pooled(one, frames)]
    assert backbone.widths == [width for one in alone for width in one.widths] == [32, 32, 64]
    for ours, theirs in zip(pooled(backbone, frames), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())
    assert backbone.maps.count_params() == sum(one.maps.count_params() for one in alone)
    assert len({backbone.digest, *(one.digest for one in alone)}) == 3


@pytest.mark.parametrize("views", [1, 2])
def test_the_saved_network_answers_as_its_head_does(
    views: int, backbone: Backbone, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    images = frames if views == 1 else np.stack([frames, frames[::-1]], axis=1)
    parts = [pooled(backbone, images if views == 1 else images[:, view]) for view in range(views)]
    features = np.concatenate([np.concatenate(depth, axis=1) for depth in zip(*parts, strict=True)], axis=1)
    head = head_on(backbone, views)
    network = with_heads(backbone, [head], views)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(images, verbose=0)[:, 1], head.blast_probability(features), atol=1e-4)
    alone = [count_macs(zoo.feature_maps(name, SIZE, depths, "none")) for name, depths in ALONE.items()]
    assert count_macs(loaded) == views * (sum(alone) + 2 * sum(backbone.widths))


def explained(network: Any, images: NDArray[np.uint8], layer: str | None = None) -> NDArray[np.float32]:
    """Evidence for a blast less that for a normal cell, (N, h, w)."""
    parts = cut(network, layer)
    return grad_cam(parts, images, 1)[0] - grad_cam(parts, images, 0)[0]


def test_the_evidence_of_all_networks_adds_up_to_the_log_odds(
    weights: Path, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    depths = ("edgenet/block3_pointwise_relu", "mobilenetv2/block_9_add")  # of 12 x 12 and 3 x 3 places
    backbone = open_backbone(BOTH, SIZE, depths, str(weights))
    head = head_on(backbone, 1)
    network = with_heads(backbone, [head])
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    evidence = explained(loaded, frames)
    assert evidence.shape == (3, 12, 12)
    of_each = [
        np.asarray(values) @ part
        for values, part in zip(pooled(backbone, frames), np.split(head.rule.any_bench.weights, [64]), strict=True)
    ]
    np.testing.assert_allclose(evidence.sum(axis=(1, 2)), sum(of_each), atol=1e-3 * np.abs(of_each).max())
    for layer, share in zip(depths, of_each, strict=True):
        alone = explained(loaded, frames, layer)
        np.testing.assert_allclose(alone.sum(axis=(1, 2)), share, rtol=1e-3)
    assert cut(loaded).layer == "edgenet_block3_pointwise_relu, mobilenetv2_block_9_add"


def test_a_layer_below_what_the_head_reads_is_mapped(backbone: Backbone, frames: NDArray[np.uint8]) -> None:
    network = with_heads(backbone, [head_on(backbone, 1)])
    parts = cut(network, "mobilenetv2/block_2_add")
    found, logits = grad_cam(parts, frames, 1)
    assert found.shape == (3, 12, 12)
    assert found.max() > 0
    np.testing.assert_allclose(logits, grad_cam(cut(network), frames, 1)[1], atol=1e-3)
    with pytest.raises(UsageError, match='no feature map "mobilenetv2_block_2_ad"'):
        cut(network, "mobilenetv2/block_2_ad")
    with pytest.raises(UsageError, match='leads past the layer "mobilenetv2_block_2_expand_relu"'):
        cut(network, "mobilenetv2/block_2_expand_relu")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["train", *map(str, arguments)])
    assert exit_.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("model", "given", "depths", "sentence"),
    [
        ("edgenet+mobilnetv2", ".", "[0.5]", 'There is no model "mobilnetv2". Did you mean "mobilenetv2"?'),
        ("edgenet+edgenet", ".", "[0.5]", "edgenet+edgenet has edgenet more than once; name each network once."),
        ("edgenet+vgg19", ".", "[0.5]", "lacks vgg19.weights.h5; put the weights of vgg19 there under that name."),
        (BOTH, "edgenet.weights.h5", "[0.5]", "the folder that holds edgenet.weights.h5 and mobilenetv2.weights.h5."),
        (BOTH, ".", '["out_relu"]', '"out_relu" is of no network here; write it as edgenet/LAYER or mobilenetv2/LAYER'),
        (BOTH, ".", '["vgg19/out", 0.5]', '"vgg19/out" is of no network here'),
        (BOTH, ".", '["mobilenetv2/block_9_add"]', "no layer of edgenet; add edgenet/LAYER, or leave edgenet out"),
        (BOTH, ".", '["edgenet/stem_rel", 0.5]', 'edgenet has no feature map "stem_rel". Did you mean "stem_relu"?'),
        ("edgenet", ".", '["vgg19/out"]', '"vgg19/out" is of no network here; write it as edgenet/LAYER.'),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(
    model: str,
    given: str,
    depths: str,
    sentence: str,
    weights: Path,
    rendered_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "head.toml").write_text(HEAD.format(depths))
    named = ("--model", model, "--weights", weights / given, "--recipe", tmp_path / "head.toml")
    assert sentence in refused(capsys, rendered_data, *named, "--out", tmp_path / "run")


def test_a_whole_network_is_one(rendered_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = f"{BOTH} is several networks, which need a recipe with a head, such as head."
    assert sentence in refused(capsys, rendered_data, "--model", BOTH, "--out", tmp_path / "run")
    space = tmp_path / "space.toml"
    space.write_text(f'recipe = "honest"\nmodels = ["edgenet", "{BOTH}"]\n')
    with pytest.raises(UsageError, match="is several networks, which need a recipe with a head"):
        load_space(str(space))
    space.write_text(f'recipe = "head"\nmodels = ["edgenet", "{BOTH}"]\n')
    assert load_space(str(space)).models == ["edgenet", BOTH]


def test_the_next_network_is_completed() -> None:
    (option,) = (one for one in train.params if one.name == "model")
    offered = option.shell_complete(click.Context(train), "mobilenetv2+efficientnet_lite")
    assert {one.value for one in offered} == {f"mobilenetv2+efficientnet_lite{size}" for size in (0, 1, 2)}
    assert not option.shell_complete(click.Context(train), "edgenet+ed")


def test_a_block_that_is_a_network_of_its_own_can_be_read() -> None:
    """ConvNeXt's downsampling is a Sequential."""
    maps = zoo.feature_maps("convnext_tiny", SIZE, (0.3,), "none")
    assert maps.output_shape[1:] == (SIZE // 8, SIZE // 8, 192)
