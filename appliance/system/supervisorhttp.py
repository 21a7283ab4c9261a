"""The supervisor over HTTPS."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING

from appliance.errors import KubernetesError, KubernetesRefused, KubernetesUnavailable
from appliance.secret import Secret
from appliance.system.supervisor import Admission, Answer, Authority, Ping, parse_authority

if TYPE_CHECKING:
    import ssl

    from appliance.system.transfer import Reply

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 1024 * 1024
_ADMISSIONS = {
    200: Admission.ADMITTED,
    503: Admission.NOT_YET,
    401: Admission.WRONG,
    403: Admission.OTHER_ROLE,
}


class HttpSupervisor:
    """The supervisor over HTTPS."""

    def ping(self, host: str, port: int) -> Ping:
        """Ask whether it is there; see `Supervisor.ping`."""
        from appliance.system.transfer import trust_anyone

        try:
            reply = _get(host, port, "/ping", trust_anyone())
        except KubernetesUnavailable as error:
            return Ping(Answer.NONE, str(error))
        if reply.status == 503:
            return Ping(Answer.STARTING)
        if reply.status == 200 and reply.content.strip() == b"pong":
            return Ping(Answer.PONG)
        return Ping(Answer.NONE, str(_error_of(host, port, "/ping", reply)))

    def authority(self, host: str, port: int) -> Authority:
        """Return the certificates it serves; see `Supervisor.authority`."""
        from appliance.system.transfer import trust_anyone

        reply = _get(host, port, "/cacerts", trust_anyone())
        if reply.status != 200:
            raise _error_of(host, port, "/cacerts", reply)
        return parse_authority(reply.content)

    def admission(
        self, host: str, port: int, authority: Authority, user: str, password: Secret
    ) -> Admission:
        """Ask what it says to a password; see `Supervisor.admission`."""
        from appliance.system.transfer import load_trust

        path = "/v1-rke2/readyz"
        try:
            context = load_trust(text=authority.pem)
        except OSError as error:
            raise KubernetesUnavailable(
                f"the certificates of {_base(host, port)} can not be used: {error}"
            ) from error
        credentials = b64encode(f"{user}:{password.reveal()}".encode()).decode()
        reply = _get(host, port, path, context, {"Authorization": f"Basic {credentials}"})
        admission = _ADMISSIONS.get(reply.status)
        if admission is None:
            raise _error_of(host, port, path, reply)
        return admission


def _base(host: str, port: int) -> str:
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def _get(
    host: str,
    port: int,
    path: str,
    context: ssl.SSLContext,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    from appliance.system.transfer import TransferFailed, exchange  # requests takes 0.1 s

    base = _base(host, port)
    try:
        return exchange(
            "GET",
            base + path,
            context=context,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            timeout_s=TIMEOUT_S,
            headers=headers,
            limit=MAX_ANSWER_BYTES,
        )
    except TransferFailed as failed:
        hint = "its certificate is not of this cluster, or not for this address"
        raise KubernetesUnavailable(
            f"{base}{path}: {failed}", hint=hint if failed.is_untrusted else None
        ) from failed


def _error_of(host: str, port: int, path: str, reply: Reply) -> KubernetesError:
    from appliance.system.transfer import said

    message = f"{_base(host, port)}{path}: status {reply.status}: {said(reply.content)}"
    if reply.status == 429 or reply.status >= 500:
        return KubernetesUnavailable(message, status=reply.status)
    return KubernetesRefused(message, status=reply.status)
