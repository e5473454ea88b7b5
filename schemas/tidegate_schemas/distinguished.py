"""Names of subjects of certificates, as RFC 4514 writes them: `CN=shop,O=Example`."""

from __future__ import annotations

from cryptography import x509


def normal_name(text: str) -> str:
    """The one way of several to write a name: `CN = shop, O=Example` is `CN=shop,O=Example`.

    Raises:
        ValueError: it is no such name, or an empty one.
    """
    try:
        found = x509.Name.from_rfc4514_string(text).rfc4514_string()
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no subject; write it as `CN=shop,O=Example`") from None
    if not found:
        raise ValueError("an empty subject is anybody's")
    return found


def subject_of(certificate: bytes) -> str:
    """The subject of a certificate in DER.

    Raises:
        ValueError: it is no certificate.
    """
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
