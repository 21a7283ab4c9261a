"""The supervisor over HTTPS."""

from __future__ import annotations

from appliance.system.supervisor import Answer, Ping

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 1024 * 1024


class HttpSupervisor:
    """The supervisor over HTTPS."""

    def ping(self, host: str, port: int) -> Ping:
        """Ask whether it is there; see `Supervisor.ping`."""
        from appliance.system.transfer import (  # requests takes 0.1 s
            TransferFailed,
            exchange,
            said,
            trust_anyone,
        )

        url = f"https://{f'[{host}]' if ':' in host else host}:{port}/ping"
        try:
            reply = exchange(
                "GET",
                url,
                context=trust_anyone(),
                connect_timeout_s=CONNECT_TIMEOUT_S,
                timeout_s=TIMEOUT_S,
                limit=MAX_ANSWER_BYTES,
            )
        except TransferFailed as failed:
            return Ping(Answer.NONE, f"{url}: {failed}")
        if reply.status == 503:
            return Ping(Answer.STARTING)
        if reply.status == 200 and reply.content.strip() == b"pong":
            return Ping(Answer.PONG)
        return Ping(Answer.NONE, f"{url}: status {reply.status}: {said(reply.content)}")
