"""The certificates with which the agent speaks TLS on the `http` listener, where other hosts reach it.

The host is its own authority: it makes the authority's key and certificate once, and signs one for its names and
addresses of the moment at each start. Clients trust the authority, by a file that they copy from this host, and so
follow a change of address. The key is not the host's identity: what proves a host to the cluster must sign nothing
that strangers can choose.

    STATE_DIR/http-ca.pem    the authority's key and certificate; mode 0600
    STATE_DIR/http.pem       the listener's, made at each start; mode 0600
    RUN_DIR/http-ca.crt      the authority's certificate, which every account may read
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from netagent.errors import FailedError
from netagent.state_dir import write_private

LIFE: Final = dt.timedelta(days=3650)
"""An agent may run for years, and clients must not lose it on a day that is in no calendar."""
_BEFORE: Final = dt.timedelta(days=1)
"""Clocks of clients may be behind."""


def server_context(
    state_dir: Path, run_dir: Path, name: str, addresses: Sequence[str], now: dt.datetime
) -> ssl.SSLContext:
    """Write the files, and return what a server needs. Raises FailedError."""
    own, authority = state_dir / "http.pem", state_dir / "http-ca.pem"
    try:
        ca_key, ca = _authority(authority, name, now)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(key, name, addresses, ca=ca, ca_key=ca_key, now=now)
        write_private(own, _pem(key) + _text(certificate))
        public = run_dir / "http-ca.crt"
        public.write_text(_text(ca), encoding="ascii")
        public.chmod(0o644)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(own)
    except (OSError, ValueError) as error:
        raise FailedError(
            f"cannot make a certificate: {error}",
            thing=str(authority),
            hint=f"repair {state_dir}; without {authority.name} there, a new one is made",
        ) from None
    return context


def _authority(
    path: Path, name: str, now: dt.datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Read the authority, or make it."""
    if path.exists():
        content = path.read_bytes()
        key = serialization.load_pem_private_key(content, None)
        certificate = x509.load_pem_x509_certificate(content)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError(f"{path} holds no key with its certificate")
        return key, certificate
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"netagent on {name}")
    certificate = (
        _builder(subject, subject, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(path, _pem(key) + _text(certificate))
    return key, certificate


def _signed(
    key: ec.EllipticCurvePrivateKey,
    name: str,
    addresses: Sequence[str],
    *,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.DNSName(name), x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in dict.fromkeys(addresses)]
    return (
        _builder(_name(name), ca.subject, key, now)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
