"""Ed25519 signatures of bundles (RFC 8032), the keys that make them, and the keys that a board trusts.

Not TUF, securesystemslib or sigstore: boards have no network, no clock and no server (docs/decisions.md, Signing).
"""
