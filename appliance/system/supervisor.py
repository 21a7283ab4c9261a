"""RKE2's supervisor on a server (port 9345): what is asked of it before a node has joined."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from appliance.errors import KubernetesMalformed
from appliance.secret import Secret

_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----"
)


class Answer(Enum):
    """How a supervisor answers when it is only asked whether it is there."""

    PONG = "serves"
    STARTING = "is starting"
    NONE = "does not answer"


@dataclass(frozen=True)
class Ping:
    """An answer, and where there is none what lies at the bottom of it."""

    answer: Answer
    cause: str = ""


@dataclass(frozen=True)
class Authority:
    """The certificates that vouch for a cluster's servers.

    Attributes:
        pem: As the supervisor serves them.
        digest: What a token pins them by, 64 hexadecimal digits.
    """

    pem: str
    digest: str


class Admission(Enum):
    """What a supervisor says to a password."""

    ADMITTED = "the token is accepted"
    NOT_YET = "the server is not ready to tell"
    WRONG = "the token is not accepted"
    OTHER_ROLE = "the token is one for the other kind of node"


class Supervisor(Protocol):
    """Asks the supervisor of a server."""

    def ping(self, host: str, port: int) -> Ping:
        """Ask whether it is there; nobody being there is an answer, too."""

    def authority(self, host: str, port: int) -> Authority:
        """Return the certificates it serves; whoever answers there can serve any.

        Raises:
            KubernetesError: It does not answer, not yet, or with something else.
        """

    def admission(
        self, host: str, port: int, authority: Authority, user: str, password: Secret
    ) -> Admission:
        """Ask what it says to a password; it is sent only to whom `authority` vouches for.

        Args:
            host: The server's address, or the balancer's in front of it.
            port: Its port.
            authority: Certificates that were compared with what is pinned.
            user: `server` or `node`.
            password: The last part of a token.

        Raises:
            KubernetesError: It does not answer, or with something else.
        """


def parse_authority(content: bytes) -> Authority:
    """Read what /cacerts serves.

    One certificate is pinned by the digest of the text as it was served, byte for byte; a chain by
    that of its last certificate, which is the root. Source: k3s, pkg/clientaccess/token.go.

    Raises:
        KubernetesMalformed: It holds no certificate.
    """
    try:
        pem = content.decode("ascii")
        certificates = [b64decode(found) for found in _CERTIFICATE.findall(pem)]
    except ValueError as error:
        raise KubernetesMalformed("the server's /cacerts holds no certificates") from error
    if not certificates:
        raise KubernetesMalformed("the server's /cacerts holds no certificates")
    pinned = content if len(certificates) == 1 else certificates[-1]
    return Authority(pem, hashlib.sha256(pinned).hexdigest())
