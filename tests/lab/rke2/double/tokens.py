"""Tokens: their three forms, and the CA hash in the long one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_BOOTSTRAP = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")


class TokenError(Exception):
    """A token that can not be one."""


@dataclass(frozen=True)
class Token:
    """What a token says.

    Attributes:
        password: What proves the right to join.
        ca_hash: SHA-256 the server's CA has to have; empty if any will do.
        is_bootstrap: Whether it is one that `rke2 token create` made.
    """

    password: str
    ca_hash: str = ""
    is_bootstrap: bool = False


def parse_token(text: str) -> Token:
    """Read a token of any form.

    Raises:
        TokenError: With the words of RKE2.
    """
    text = text.strip()
    if not text:
        raise TokenError("token must not be empty")
    ca_hash = ""
    if text.startswith("K10"):
        ca_hash, separator, text = text[3:].partition("::")
        if not separator or not re.fullmatch(r"[0-9a-fA-F]{64}", ca_hash):
            raise TokenError("invalid token CA hash length")
    if _BOOTSTRAP.fullmatch(text):
        return Token(text, ca_hash, is_bootstrap=True)
    if ca_hash:
        _, separator, password = text.partition(":")
        if not separator or not password:
            raise TokenError("invalid token format")
        return Token(password, ca_hash)
    return Token(text)


def ca_hash(pem: bytes) -> str:
    """The hash a long token pins: of a lone certificate's PEM, byte for byte as it is served."""
    return hashlib.sha256(pem).hexdigest()


def long_token(pem: bytes, user: str, password: str) -> str:
    """The long form of a password."""
    return f"K10{ca_hash(pem)}::{user}:{password}"
