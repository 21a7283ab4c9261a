"""RKE2 supervisors in memory."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.errors import KubernetesUnavailable
from appliance.secret import Secret
from appliance.system.supervisor import Admission, Answer, Authority, Ping

REFUSED = "Connection refused"


@dataclass(frozen=True)
class Serving:
    """A supervisor that is there.

    Attributes:
        digest: That of the certificates it serves.
        passwords: User (server, node) to what is accepted; nothing is known while it starts.
        is_starting: Whether it only says that it is.
    """

    digest: str = "c" * 64
    passwords: tuple[tuple[str, Secret], ...] = ()
    is_starting: bool = False


class FakeSupervisor:
    """Supervisors by host and port.

    Attributes:
        serving: Who serves where; may be changed, as servers come and go.
        asked: What was asked, call by call; no password is in it.
    """

    def __init__(self, serving: dict[tuple[str, int], Serving] | None = None) -> None:
        """Begin with some supervisors."""
        self.serving = dict(serving or {})
        self.asked: list[str] = []

    def ping(self, host: str, port: int) -> Ping:
        """Say whether one is there."""
        self.asked.append(f"ping {host}:{port}")
        found = self.serving.get((host, port))
        if found is None:
            return Ping(Answer.NONE, f"https://{host}:{port}/ping: {REFUSED}")
        return Ping(Answer.STARTING if found.is_starting else Answer.PONG)

    def authority(self, host: str, port: int) -> Authority:
        """Return what one serves."""
        found = self._answer(host, port, "/cacerts")
        return Authority(f"certificates of {found.digest}", found.digest)

    def admission(
        self, host: str, port: int, authority: Authority, user: str, password: Secret
    ) -> Admission:
        """Say what one says to a password."""
        found = self._answer(host, port, "/v1-rke2/readyz")
        if authority.digest != found.digest:
            raise KubernetesUnavailable(f"https://{host}:{port}: certificate verify failed")
        if (user, password) in found.passwords:
            return Admission.ADMITTED
        return Admission.WRONG

    def _answer(self, host: str, port: int, path: str) -> Serving:
        self.asked.append(f"{path} {host}:{port}")
        found = self.serving.get((host, port))
        if found is None:
            raise KubernetesUnavailable(f"https://{host}:{port}{path}: {REFUSED}")
        if found.is_starting:
            raise KubernetesUnavailable(
                f"https://{host}:{port}{path}: status 503: starting", status=503
            )
        return found
