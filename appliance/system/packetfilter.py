"""Nftables: one table at a time, replaced as a whole."""

from __future__ import annotations

from typing import Protocol

from appliance.system.commands import Commands


class PacketFilter(Protocol):
    """Reads and replaces tables of the packet filter."""

    def list_table(self, family: str, name: str, *, counters: bool = False) -> str | None:
        """Return a table as nft prints it, or None if there is none."""

    def check(self, ruleset: str) -> None:
        """Have nft judge a ruleset without loading it.

        Raises:
            CommandError: nft refuses it; its words are in the error.
        """

    def load(self, ruleset: str) -> None:
        """Load a ruleset in one transaction: all of it or nothing."""


class RealPacketFilter:
    """nft."""

    def __init__(self, commands: Commands) -> None:
        """Run nft through `commands`."""
        self._commands = commands

    def list_table(self, family: str, name: str, *, counters: bool = False) -> str | None:
        """Return a table as nft prints it, or None if there is none."""
        state = () if counters else ("--stateless",)
        argv = ("nft", *state, "--numeric", "list", "table", family, name)
        completed = self._commands.run(argv, check=False)
        return completed.stdout if completed.rc == 0 else None

    def check(self, ruleset: str) -> None:
        """Have nft judge a ruleset without loading it."""
        self._commands.run(("nft", "--check", "--file", "-"), stdin=ruleset)

    def load(self, ruleset: str) -> None:
        """Load a ruleset in one transaction."""
        self._commands.run(("nft", "--file", "-"), stdin=ruleset)
