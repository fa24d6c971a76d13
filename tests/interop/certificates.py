"""Keys and certificates of a broker, its clients, and an authority that signed neither."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.embedded.servers import HOST


class Certificates:
    """PEM files in a folder.

    Attributes:
        ca, other_ca: the authority that signed the server and the client, and another.
        server: the server's key and certificate in one file, as Kafka takes it.
        client, client_key: of a client, for mutual TLS.
        other_client: of the same client, signed by the other authority.
        encrypted: the client's key under a password.
    """

    def __init__(self, folder: Path) -> None:
        self.ca, self.other_ca = folder / "ca.pem", folder / "other-ca.pem"
        self.server = folder / "server.pem"
        self.client, self.client_key = folder / "client.pem", folder / "client.key"
        key = ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("ca", key, None, key)
        self.ca.write_bytes(_pem(ca))
        other = ec.generate_private_key(ec.SECP256R1())
        self.other_ca.write_bytes(_pem(_certificate("other ca", other, None, other)))
        server = ec.generate_private_key(ec.SECP256R1())
        signed = _certificate("server", server, ca, key)
        self.server.write_bytes(_key(server) + _pem(signed) + _pem(ca))
        client = ec.generate_private_key(ec.SECP256R1())
        self.client.write_bytes(_pem(_certificate("client", client, ca, key)))
        self.client_key.write_bytes(_key(client))
        self.other_client = folder / "other-client.pem"
        stranger = _certificate(
            "client", client, _certificate("other ca", other, None, other), other
        )
        self.encrypted = folder / "encrypted.key"
        self.encrypted.write_bytes(_key(client, serialization.BestAvailableEncryption(b"hush")))
        self.other_client.write_bytes(_pem(stranger))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key(
    key: ec.EllipticCurvePrivateKey,
    how: serialization.KeySerializationEncryption = serialization.NoEncryption(),  # noqa: B008
) -> bytes:
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, how)
