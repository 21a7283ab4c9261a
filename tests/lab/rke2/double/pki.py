"""Certificates, by the openssl command. All keys are EC P-256, as RKE2's are."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from . import paths

CA_FILES = {
    "ServerCA": "server-ca.crt",
    "ServerCAKey": "server-ca.key",
    "ClientCA": "client-ca.crt",
    "ClientCAKey": "client-ca.key",
    "RequestHeaderCA": "request-header-ca.crt",
    "RequestHeaderCAKey": "request-header-ca.key",
    "ETCDServerCA": "etcd/server-ca.crt",
    "ETCDServerCAKey": "etcd/server-ca.key",
    "ETCDPeerCA": "etcd/peer-ca.crt",
    "ETCDPeerCAKey": "etcd/peer-ca.key",
    "ServiceKey": "service.key",
}
"""What servers share, by its name in the bootstrap data."""

_CA_CONFIG = """[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
string_mask = utf8only
[name]
CN = unused
[extensions]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyEncipherment, keyCertSign
subjectKeyIdentifier = hash
"""
_LEAF_CONFIG = """[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = unused
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = {usage}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
{names}
"""


def make_ca(crt: Path, name: str) -> None:
    """Make a CA of ten years beside its key."""
    subject = f"/CN=rke2-{name}@{int(time.time())}"
    _certificate(crt, _CA_CONFIG, ["-subj", subject, "-days", "3650"])


def make_cluster(tls: Path) -> None:
    """Make what is not there yet of all that servers of one cluster share."""
    for key, file in CA_FILES.items():
        crt = tls / file
        if key.endswith("CA") and not (crt.exists() and crt.with_suffix(".key").exists()):
            make_ca(crt, file.removesuffix(".crt").replace("/", "-"))
    if not (tls / "service.key").exists():
        key = _openssl(["ecparam", "-name", "prime256v1", "-genkey", "-noout"])
        paths.write(tls / "service.key", key)


def issue(
    crt: Path,
    ca: Path,
    common_name: str,
    *,
    organization: str = "",
    names: Sequence[str] = (),
    server: bool = False,
) -> None:
    """Issue a certificate of a year beside its key, signed by `ca` (whose key is beside it).

    Args:
        crt: Where it goes.
        ca: The CA's certificate.
        common_name: CN, the user for the API server.
        organization: O, the user's group.
        names: Host names and addresses it is for.
        server: Whether servers use it, else clients do.
    """
    usage = "serverAuth, clientAuth" if server else "clientAuth"
    subject = (f"/O={organization}" if organization else "") + f"/CN={common_name}"
    config = _LEAF_CONFIG.format(usage=usage, names=_alternatives(names))
    arguments = ["-subj", subject, "-days", "365", "-CA", str(ca)]
    _certificate(crt, config, [*arguments, "-CAkey", str(ca.with_suffix(".key"))])


def supervisor_secret(crt: Path, names: Sequence[str]) -> str:
    """Text of dynamic-cert.json."""
    data = {
        "tls.crt": b64encode(crt.read_bytes()).decode(),
        "tls.key": b64encode(crt.with_suffix(".key").read_bytes()).decode(),
    }
    annotations = {f"listener.cattle.io/cn-{name.replace(':', '_')}": name for name in names}
    metadata = {"name": "rke2-serving", "namespace": "kube-system", "annotations": annotations}
    return json.dumps({"metadata": metadata, "data": data, "type": "kubernetes.io/tls"})


def end_of(crt: Path) -> str:
    """Until when a certificate is valid."""
    return _openssl(["x509", "-noout", "-enddate", "-in", str(crt)]).strip().partition("=")[2]


def server_context(crt: Path, client_ca: Path) -> ssl.SSLContext:
    """TLS of a server that asks for a client certificate and does without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, crt.with_suffix(".key"))
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(ca: Path | bytes | None, crt: Path | None = None) -> ssl.SSLContext:
    """TLS of a client; without `ca` any server will do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif isinstance(ca, bytes):
        context.load_verify_locations(cadata=ca.decode())
    else:
        context.load_verify_locations(ca)
    if crt is not None:
        context.load_cert_chain(crt, crt.with_suffix(".key"))
    return context


def _alternatives(names: Sequence[str]) -> str:
    if not names:
        return ""
    return "subjectAltName = " + ", ".join(
        f"{'IP' if is_address(name) else 'DNS'}:{name}" for name in dict.fromkeys(names)
    )


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _certificate(crt: Path, config: str, arguments: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        settings, key, made = (Path(folder) / name for name in ("cnf", "key", "crt"))
        settings.write_text(config)
        _openssl(
            [
                *("req", "-x509", "-new", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:prime256v1", "-nodes", "-config", str(settings)),
                *("-keyout", str(key), "-out", str(made), *arguments),
            ]
        )
        paths.write(crt.with_suffix(".key"), key.read_bytes(), 0o600)
        paths.write(crt, made.read_bytes(), 0o644)


def _openssl(arguments: Sequence[str]) -> str:
    done = subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, check=False, umask=0o077
    )
    if done.returncode != 0:
        raise OSError(f"openssl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
