"""A key that is revoked while a bundle runs that it signed."""

from bloodedge.signing.signature import Untrusted, refuse_revoked
from bloodedge.signing.trust import TrustStore
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.bundles.switch import mark_bad
from bloodedge_device.settings import DeviceSettings


def check_revocation(settings: DeviceSettings, loaded: Loaded) -> None:
    """Mark the running slot's bundle bad if the key that signed it was revoked.

    Raises Untrusted for a bundle that the settings name, and BloodedgeError when the trusted keys cannot be read, which
    says nothing about the bundle.
    """
    if loaded.signer is None:
        return
    title = f"{loaded.manifest.name} {loaded.manifest.serial}"
    try:
        refuse_revoked(title, loaded.signer.key_id, TrustStore.read(settings.trusted_keys))
    except Untrusted as error:
        if loaded.slot is None:
            raise
        mark_bad(settings.state, loaded.sha256, str(error))
