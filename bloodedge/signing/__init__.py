"""Ed25519 signatures of bundles (RFC 8032), the keys that make them, and the keys that a board trusts.

Not TUF, securesystemslib or sigstore: boards have no network, no clock and no server (docs/decisions.md, Signing).
"""

from bloodedge.signing.keys import PublicKey, read_private_key, read_public_key
from bloodedge.signing.signature import Signature, Signer, Untrusted, sign_bundle, verify_bundle
from bloodedge.signing.trust import TrustStore

__all__ = [
    "PublicKey",
    "Signature",
    "Signer",
    "TrustStore",
    "Untrusted",
    "read_private_key",
    "read_public_key",
    "sign_bundle",
    "verify_bundle",
]
