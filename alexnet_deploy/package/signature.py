"""Ed25519 signatures over a package's list of hashes."""

from __future__ import annotations

from pathlib import Path

from alexnet_deploy.artifact import existing_file
from alexnet_deploy.errors import InputError
from alexnet_deploy.extras import extra
from alexnet_deploy.package.layout import broken

SIGNATURE_BYTES = 64


def signature(content: bytes, key_file: Path) -> bytes:
    """By a private key, PEM without a password. Raises InputError where that is none."""
    with extra("sign", "signing a package"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(existing_file(key_file).read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise _no_key(key_file, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(key_file, "private")
    return key.sign(content)


def check_signature(path: Path, content: bytes, signed: bytes | None, trust: Path) -> None:
    """That the owner of a public key, PEM, signed this content of the package at `path`.

    Raises:
        InputError: `trust` is no such key.
        ArtifactCorrupt: the signature is missing or wrong.
    """
    with extra("sign", "checking a package's signature"):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    try:
        key = load_pem_public_key(existing_file(trust).read_bytes())
    except (ValueError, TypeError) as error:
        raise _no_key(trust, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(trust, "public")
    if signed is None:
        raise broken(path, "is not signed", f"a signature by the key of {trust.name}")
    try:
        key.verify(signed, content)
    except InvalidSignature as error:
        raise broken(path, f"is not signed by the key of {trust.name}", "that signature, over an unchanged list") from error


_HOW = {
    "private": "openssl genpkey -algorithm ed25519 -out key.pem",
    "public": "openssl pkey -in key.pem -pubout -out trust.pem",
}


def _no_key(path: Path, kind: str) -> InputError:
    return InputError(f"{path} is no Ed25519 {kind} key", expected="PEM without a password", fix=_HOW[kind])
