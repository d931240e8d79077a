"""Multiply-accumulates agree with what the papers print."""

import keras
import pytest

from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import build
from bloodedge_train.zoo.macs import count_macs

SQUARE = (224, 224, 3)
applications = keras.applications


@pytest.mark.parametrize(
    ("network", "published", "tolerance"),
    [
        # Sandler et al. 2018, Table 4: 300 M
        (lambda: applications.MobileNetV2(weights=None), 300e6, 0.01),
        # Tan and Le 2019, Table 2: 0.39 B
        (lambda: applications.EfficientNetB0(weights=None), 0.39e9, 0.02),
        # Liu et al. 2022, Table 1: 4.5 G
        (lambda: applications.ConvNeXtTiny(weights=None, include_top=False, input_shape=SQUARE), 4.5e9, 0.02),
        # torchvision's model table: 19.63 G, 0.12 G of them in the fully connected layers left out here
        (lambda: applications.VGG19(weights=None, include_top=False, input_shape=SQUARE), 19.51e9, 0.005),
    ],
    ids=["mobilenetv2", "efficientnetb0", "convnext-tiny", "vgg19"],
)
def test_a_published_network_costs_what_its_paper_says(network, published, tolerance) -> None:
    assert count_macs(network()) == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "size_px", "published"),
    [
        ("resnetrs50", 160, 2.3e9),  # Bello et al. 2021, table of architectures: 4.6 billion operations, two to each
        ("regnetx016", 224, 1.6e9),  # Radosavovic et al. 2020, REGNETX-1.6GF: 1.6 B
    ],
)
def test_the_zoos_own_networks_cost_what_their_papers_say(name: str, size_px: int, published: float) -> None:
    assert count_macs(build(name, size_px, NetworkSpec())) == pytest.approx(published, rel=0.03)


def test_each_kind_of_layer_counts_as_by_hand() -> None:
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(6, 3, padding="same", groups=2)(image)  # 64 places x 9 x 2 x 6
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x)  # 16 x 9 x 6
    x = keras.layers.SeparableConv2D(5, 3, padding="same")(x)  # 16 x (9 x 6 + 6 x 5)
    x = keras.layers.BatchNormalization()(x)
    inner = keras.Sequential([keras.Input((4, 4, 5)), keras.layers.Dense(7)])  # 16 x 5 x 7
    x = keras.layers.GlobalAveragePooling2D()(inner(x))
    model = keras.Model(image, keras.layers.Dense(2)(x))  # 7 x 2
    assert count_macs(model) == 64 * 108 + 16 * 54 + 16 * 84 + 16 * 35 + 14


def test_two_views_cost_twice_the_features_and_a_head_of_twice_the_width() -> None:
    one, two = (build("edgenet", 64, NetworkSpec(units=16), views=views) for views in (1, 2))
    head = 256 * 16 + 16 * 2  # edgenet ends in 256 channels
    assert count_macs(two) == 2 * (count_macs(one) - head) + 2 * 256 * 16 + 16 * 2
