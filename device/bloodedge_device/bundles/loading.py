"""A bundle's network, loaded and self-tested on this machine."""

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import Artifact, Manifest
from bloodedge.engine import Engine, installed, load_artifact
from bloodedge.engine.golden import GoldenResult, check_golden
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import sha256
from bloodedge.signing.signature import Signer, Untrusted, verify_bundle
from bloodedge.signing.trust import TrustStore
from bloodedge_device.bundles.released import bundle_path, is_released
from bloodedge_device.bundles.slot_record import Record, Slot, SlotName, TemporaryError, now, read_record, slot_file
from bloodedge_device.settings import DeviceSettings


@dataclass(frozen=True)
class Loaded:
    """A bundle's network that passed its self-test on this machine."""

    manifest: Manifest
    artifact: Artifact
    why: str
    """Why this engine was chosen."""
    engine: Engine
    golden: GoldenResult
    signer: Signer | None = None
    """None where no signature is needed: a bundle that came with the installation, or settings that accept any."""
    slot: SlotName | None = None
    """None for a bundle that the settings name or that came with the installation."""
    sha256: str = ""
    """SHA-256 of the slot's file."""


def is_bundle_fault(error: BloodedgeError) -> bool:
    """Whether the bundle itself is at fault, for good: missing keys and settings may come back."""
    if isinstance(error, Untrusted):
        return error.reason not in {"unsigned", "unknown key"}
    return not isinstance(error, TemporaryError)


def choose_artifact(settings: DeviceSettings, manifest: Manifest) -> tuple[Artifact, str]:
    """(artifact, why): the engine that the settings name, else OpenVINO on x86 and LiteRT on ARM.

    OpenVINO's int8 is the faster one on x86, and runs mostly as float on ARM. Raises UsageError when the bundle has no
    such artifact.
    """
    if settings.engine != "auto":
        return _artifact(settings, manifest, settings.engine), "the settings say so"
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    bundled = {artifact.engine for artifact in manifest.artifacts if artifact.precision == settings.precision}
    if not x86:
        why = f"this machine is {platform.machine()}"
    elif "openvino" not in bundled:
        why = f"the bundle has no OpenVINO {settings.precision} model"
    elif not installed("openvino"):
        why = "OpenVINO is not installed"
    else:
        return _artifact(settings, manifest, "openvino"), "this machine is x86 and OpenVINO is installed"
    return _artifact(settings, manifest, "litert"), why


def _artifact(settings: DeviceSettings, manifest: Manifest, engine: str) -> Artifact:
    try:
        return manifest.artifact(engine, settings.precision)
    except UsageError as error:
        raise UsageError(
            f"{str(error).rstrip('.')}; set engine and precision in the settings to what it has, or take a bundle that"
            f" was converted for {engine} {settings.precision}."
        ) from error


def verify_signer(settings: DeviceSettings, bundle: Bundle) -> Signer | None:
    """Check every file of an open bundle and its signature; returns the signer, None where none is needed.

    Raises Untrusted when no trusted key signed it, TemporaryError when the keys cannot be read, and BloodedgeError when
    a file does not match the manifest.
    """
    if settings.trust.unsigned or is_released(bundle.path):
        bundle.verify()
        return None
    try:
        trusted = TrustStore.read(settings.trusted_keys)
    except BloodedgeError as error:
        raise TemporaryError(str(error), error.exit_code) from error
    try:
        return verify_bundle(bundle, trusted)
    except Untrusted as error:
        if error.reason not in {"unsigned", "unknown key"}:
            raise
        way_out = (
            f" Trusted keys are in {settings.trusted_keys}; [trust] unsigned = true in the settings accepts"
            " unsigned bundles."
        )
        raise Untrusted(error.reason, f"{str(error).rstrip('.')}.{way_out}") from error


def load(settings: DeviceSettings) -> Loaded:
    """The network to run, loaded and self-tested.

    Raises BloodedgeError when it cannot be trusted, and when a slot's file was changed since it was installed.
    """
    record = Record() if settings.bundle is not None else read_record(settings.state)
    slot = record.running
    if record.active is None or slot is None:
        return load_file(settings, bundle_path(settings))
    path = slot_file(settings.state, record.active)
    check_slot(path, slot)
    return replace(load_file(settings, path), slot=record.active, sha256=slot.sha256)


def active_digest(settings: DeviceSettings) -> str:
    """SHA-256 of the active slot's file; empty where no slot's bundle is to run."""
    slot = None if settings.bundle is not None else read_record(settings.state).running
    return "" if slot is None else slot.sha256


def check_slot(path: Path, slot: Slot) -> None:
    """Raise BloodedgeError if a slot's file was changed since it was installed, TemporaryError if it cannot be read."""
    try:
        same = sha256(path) == slot.sha256
    except OSError as error:
        kind = BloodedgeError if isinstance(error, FileNotFoundError) else TemporaryError
        raise kind(f"{path} cannot be read ({error.strerror}); install {slot.title} again.") from error
    if not same:
        raise BloodedgeError(f"{path} was changed after {slot.title} was installed; install it again.")


def slot_of_file(settings: DeviceSettings, path: Path) -> Slot:
    """A new slot on probation that holds this file, once verified; raises as ``verify_signer`` does."""
    with Bundle(path) as bundle:
        signer = verify_signer(settings, bundle)
        manifest = bundle.manifest
    return Slot(
        name=manifest.name,
        serial=manifest.serial,
        sha256=sha256(path),
        signer="" if signer is None else f"{signer.name} ({signer.key_id})",
        installed_at=now(),
        state="on probation",
    )


def load_file(settings: DeviceSettings, path: Path) -> Loaded:
    """One bundle's network, loaded and self-tested; raises as ``load`` does."""
    with Bundle(path) as bundle:
        artifact, why = choose_artifact(settings, bundle.manifest)
        signer = verify_signer(settings, bundle)
        engine = load_artifact(bundle, artifact, settings.threads, settings.openvino_device)
        golden = check_golden(bundle, artifact, engine)
    if not golden.passed:
        raise BloodedgeError(
            f'Bundle "{bundle.manifest.name}" failed its self-test on this machine: {golden.flips} of {golden.inputs}'
            f" golden cells changed class (largest probability difference {golden.max_probability_difference:.3f});"
            " convert it again, or choose another engine in the settings."
        )
    return Loaded(bundle.manifest, artifact, why, engine, golden, signer)
