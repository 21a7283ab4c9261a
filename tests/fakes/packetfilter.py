"""nftables in memory: whole tables only."""

from __future__ import annotations

import re

from appliance.errors import CommandError
from tests.fakes.tape import Tape

_HEAD = re.compile(r"table (\w+) (\w+)\ndelete table (\w+) (\w+)\n")


class FakePacketFilter:
    """Tables that are listed in other words than they were loaded in, as nft does.

    Attributes:
        tables: Family and name to the rules that are in force.
    """

    def __init__(self, *, tape: Tape | None = None) -> None:
        """Begin without tables."""
        self.tape = tape or Tape()
        self.tables: dict[tuple[str, str], str] = {}
        self._refusal: str | None = None

    def refuse(self, words: str | None) -> None:
        """Refuse every ruleset with these words."""
        self._refusal = words

    def list_table(self, family: str, name: str, *, counters: bool = False) -> str | None:
        """Return a table without comments and with other blanks."""
        rules = self.tables.get((family, name))
        if rules is None:
            return None
        lines = [line.strip() for line in rules.splitlines()]
        return "".join(f"    {line}\n" for line in lines if line and not line.startswith("#"))

    def check(self, ruleset: str) -> None:
        """Judge a ruleset."""
        self._judge(("nft", "--check", "--file", "-"), ruleset)

    def load(self, ruleset: str) -> None:
        """Replace or delete one table."""
        self._judge(("nft", "--file", "-"), ruleset)
        head = _HEAD.match(ruleset)
        if head is None or head.group(1, 2) != head.group(3, 4):
            raise AssertionError(f"not the replacement of one table: {ruleset[:200]!r}")
        family, name = head.group(1, 2)
        rules = ruleset[head.end() :]
        self.tape.note(f"packetfilter.load {family} {name}")
        self.tables.pop((family, name), None)
        if rules.strip():
            assert f"table {family} {name} {{" in rules, rules
            self.tables[family, name] = rules

    def _judge(self, argv: tuple[str, ...], ruleset: str) -> None:
        del ruleset
        if self._refusal is not None:
            raise CommandError(argv, 1, "", self._refusal, "exit status 1")
