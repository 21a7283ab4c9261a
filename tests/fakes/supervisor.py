"""RKE2 supervisors in memory."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.system.supervisor import Answer, Ping

REFUSED = "Connection refused"


@dataclass(frozen=True)
class Serving:
    """A supervisor that is there.

    Attributes:
        is_starting: Whether it only says that it is.
    """

    is_starting: bool = False


class FakeSupervisor:
    """Supervisors by host and port.

    Attributes:
        serving: Who serves where; may be changed, as servers come and go.
    """

    def __init__(self, serving: dict[tuple[str, int], Serving] | None = None) -> None:
        """Begin with some supervisors."""
        self.serving = dict(serving or {})

    def ping(self, host: str, port: int) -> Ping:
        """Say whether one is there."""
        found = self.serving.get((host, port))
        if found is None:
            return Ping(Answer.NONE, f"https://{host}:{port}/ping: {REFUSED}")
        return Ping(Answer.STARTING if found.is_starting else Answer.PONG)
