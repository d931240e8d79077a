"""A key that is revoked while a bundle runs that it signed."""

from bloodedge.signing.signature import Untrusted, refuse_revoked
from bloodedge.signing.trust import TrustStore
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.bundles.slot_record import read_record
from bloodedge_device.bundles.start import give_way
from bloodedge_device.settings import DeviceSettings


def heed_revocation(settings: DeviceSettings, loaded: Loaded) -> None:
    """Have a slot's bundle that runs give way once the key that signed it was revoked.

    Raises Untrusted for a bundle that the settings name, and BloodedgeError when the trusted keys cannot be read, which
    is no verdict on what runs.
    """
    if loaded.signer is None:
        return
    title = f"{loaded.manifest.name} {loaded.manifest.serial}"
    try:
        refuse_revoked(title, loaded.signer.key_id, TrustStore.read(settings.trusted_keys))
    except Untrusted as error:
        if loaded.slot is None:
            raise
        slot = read_record(settings.state).running
        if slot is not None and slot.sha256 == loaded.sha256:  # else another takes over already
            give_way(settings, slot, str(error))
