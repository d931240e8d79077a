"""The pipeline that the settings and the bundle ask for."""

from functools import partial

from bloodedge.finder import Found, find_cells
from bloodedge.finder.frame_gate import check
from bloodedge.finder.slide_scale import SlideScale
from bloodedge.imaging import Image
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.kinds import KindsOf, default_kinds
from bloodedge_device.pipeline import Check, Find, Pipeline
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.slide.overlap import SlideMap


def pipeline_of(settings: DeviceSettings, loaded: Loaded) -> Pipeline:
    """A pipeline for one slide."""
    return Pipeline(
        loaded.engine,
        loaded.manifest,
        gate_of(settings),
        finder_of(settings),
        kinds=kinds(),
        known_only=settings.domain.known_only,
        slide_map=SlideMap() if settings.slide.overlap else None,
    )


def kinds() -> KindsOf:
    """What tells the kinds of cells."""
    return default_kinds()


def gate_of(settings: DeviceSettings) -> Check:
    """The frame gate with the settings' parameters."""
    return partial(check, parameters=settings.gate)


def finder_of(settings: DeviceSettings) -> Find:
    """The cell finder for one slide, with the settings' parameters."""
    scale = SlideScale(settings.finder)

    def find(bgr: Image, um_per_px: float | None) -> Found:
        return find_cells(bgr, um_per_px or scale.of(bgr), settings.finder)

    return find
