"""Stores that a run or a slide begins, and notes it in the audit log."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from bloodedge.bundle.manifest import Manifest
from bloodedge.machine import hardware_name
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import RunInfo, Store
from bloodedge_device.system.clock import clock_synchronised


def store_run(store: Store, settings: DeviceSettings, loaded: Loaded, camera: str, ready_s: float) -> int:
    """Begin a run; gives its id."""
    info = _run_info(settings, loaded, camera, ready_s)
    run = store.begin_run(info)
    bundle = {"bundle": info.bundle_name, "serial": info.bundle_serial, "engine": info.engine}
    if loaded.signer is not None:
        bundle["signed by"] = f"{loaded.signer.name} ({loaded.signer.key_id})"
    chosen = settings.model_dump(mode="json", exclude_defaults=True)
    store.note("daemon", "run began", {"run": run, **bundle, "settings": chosen})
    return run


def store_slide(store: Store, run: int, label: str, actor: str) -> int:
    """Begin a slide; gives its id."""
    number = store.begin_slide(run, label)
    store.note(actor, "slide began", {"slide": number, "label": label})
    return number


def _run_info(settings: DeviceSettings, loaded: Loaded, camera: str, ready_s: float) -> RunInfo:
    """What the store keeps of a run; ready_s: seconds from the process' start to ready."""
    return RunInfo(
        started=datetime.now(UTC) - timedelta(seconds=ready_s),
        ready_ms=ready_s * 1000,
        bundle_name=loaded.manifest.name,
        bundle_serial=loaded.manifest.serial,
        engine=loaded.artifact.engine,
        engine_reason=loaded.why,
        runtime=loaded.engine.runtime,
        precision=loaded.artifact.precision,
        threads=settings.threads,
        hardware=hardware_name(),
        camera=camera,
        golden=asdict(loaded.golden),
        manifest=_as_used(settings, loaded.manifest).model_dump_json(),
        clock_synchronised=clock_synchronised(),
    )


def _as_used(settings: DeviceSettings, manifest: Manifest) -> Manifest:
    """The manifest, without the domain where the settings ignore it."""
    return manifest if settings.domain.known_only else manifest.model_copy(update={"domain": None})
