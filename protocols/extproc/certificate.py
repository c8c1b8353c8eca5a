"""A certificate that nobody has signed, for a picker whose proxy encrypts but does not verify. (IO)

Proxies of the Gateway API connect so by default. Invariant: the key is made anew by every process and never shown to
anybody; the files it passes through, since `ssl` only reads files, are the process's own and are gone on return.
"""

from __future__ import annotations

import datetime
import ssl
import tempfile
from pathlib import Path
from typing import Final

NAME: Final = "infer-gateway"
_LIFE: Final = datetime.timedelta(days=3650)


def self_signed(name: str = NAME) -> tuple[bytes, bytes]:
    """(certificate, key) in PEM, valid for ten years from an hour ago. Takes about a millisecond: P-256."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return built.public_bytes(serialization.Encoding.PEM), secret


def self_signed_context(name: str = NAME) -> ssl.SSLContext:
    """A server's context for HTTP/2 with such a certificate."""
    certificate, key = self_signed(name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as folder:  # 0700
        path = Path(folder) / "both.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context
