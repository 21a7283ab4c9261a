"""Writes docs/deviations.md from the rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

from tests.conformance.areas import AREAS, NOT_APPLYING
from tests.conformance.rules import RULES, Rule

_INTRODUCTION = """\
<!-- Written by `python -m tests.conformance --write-deviations docs/deviations.md` from the
rules in tests/conformance/rules; a test compares. -->

# Where oneke-agent decides otherwise than the reference

The reference is the appliance agent of OpenNebula one-apps (Apache-2.0). Its decisions were
recorded as vectors (`tests/data/conformance/`), and `python -m tests.conformance` runs them all
against this agent. A vector passes, or it falls under one of the rules below. A rule looks at
what a vector asks (context, call, OneGate documents, earlier applications), never at what was
recorded, and must not concern a vector that passes.

Settings in general: the agent checks all parameters before it changes anything and names every
problem at once; the reference drops what it can not use, or writes it on into a daemon's file.
Where both end without a result they agree, whatever the words."""

_UNSEEN = """\
## What no vector shows

- **Port forwards without an address** apply to the gateway's own addresses only (`fib daddr type
  local`). The reference catches every packet of that port that passes through the gateway, so
  that a forward of port 443 would also divert what its clients send to port 443 of any server
  outside.
- **OneGate's TLS certificate is checked** by default; `ONEAPP_ONEGATE_TLS_VERIFY=NO` turns that
  off and is logged at every run, `ONEAPP_ONEGATE_CA` adds certificates. The reference does not
  check.
- **Switches take yes, true, on, 1 and no, false, off, 0**, in any case; every other word is
  refused. The reference reads all but YES and 1 as off.
- **Switching on a service that this agent does not have** (DHCP, the kernel's balancer,
  SDNAT4, WireGuard) is refused by name; their settings are accepted without effect.
- **Servers that were known stay** while OneGate fails, or leaves VMs out of an answer that is not
  whole. The reference removes the server of every VM that it could not read once, and keeps all of
  them where the last VM is gone.
- **A node is deleted with care**: only one that carries the label of its VM, that two complete
  answers of OneGate in a row do not know, and that is not Ready; of servers only one at a time, and
  none that etcd's quorum can not do without. The reference deletes every node with a name of its
  own that no VM publishes at that moment.
- **RKE2's settings** stand in `config.yaml.d/50-oneke.yaml` with mode 0600, and name the files that
  tokens are in; the administrator's own files beside it stay. The reference writes the tokens into
  `config.yaml`, which everybody may read.
- **`node-ip` and the label of the VM** are always set, and workers and storage nodes join with a
  token of their own, published as `ONEGATE_K8S_AGENT_TOKEN`. The comparison leaves these out.
- **The kubeconfig is published** only where `ONEAPP_ONEKE_PUBLISH_KUBECONFIG` says so; the
  reference always does.
- **A few parameters are new** or known from older appliances only: labels, taints, further RKE2
  settings, masters without a taint, node name and NIC, joining by hand.
- **A component that is turned off** loses its manifest, and what it deployed stays until a person
  deletes it. Longhorn's storage class and the resources of MetalLB and Cilium have files of their
  own. In templates of the 1.24 generation MetalLB answers to services without a class, as it did.
- **keepalived can be switched off** (`ONEAPP_VNF_KEEPALIVED_ENABLED=NO`) and does not run without a
  virtual address to hold. The reference always runs it, with an empty group if need be.
- **The packet filter is nftables** with one table of the agent's own, the reference's are chains of
  iptables; other tables are never touched.
- **Passwords** are written in quotes, so that keepalived reads blanks, braces and comment signs
  as they
  are; only the first 8 characters count with keepalived, which is logged."""


def write_deviations(rules: Sequence[Rule] = RULES) -> str:
    """Return the whole page."""
    return "\n\n".join([_INTRODUCTION, *_sections(rules), _UNSEEN, _not_applying()]) + "\n"


def _sections(rules: Sequence[Rule]) -> Iterator[str]:
    """Yield a section of what several areas share, then one an area that refers to it."""
    shared = {
        rule.name: rule
        for rule in reversed(rules)
        if sum(_said(other) == _said(rule) for other in rules) > 1
    }
    yield "\n\n".join(["## What several areas share", *map(_entry, reversed(shared.values()))])
    for area in AREAS:
        own = [rule for rule in rules if rule.area == area]
        common = [f"`{rule.name}`" for rule in own if _said(rule) == _said(shared.get(rule.name))]
        entries = [_entry(rule) for rule in own if f"`{rule.name}`" not in common]
        if common:
            entries.insert(0, _wrapped(f"Shared with other areas: {', '.join(common)}.", ""))
        yield "\n\n".join([f"## {area}", *entries])


def _said(rule: Rule | None) -> tuple[str, ...] | None:
    return (rule.name, rule.reference, rule.ours, rule.reason) if rule else None


def _wrapped(line: str, indent: str) -> str:
    return fill(line, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _entry(rule: Rule) -> str:
    lines = (
        f"**`{rule.name}`**",
        f"- The reference {_sentence(rule.reference)}",
        f"- We {_sentence(rule.ours)}",
        f"- Why: {_sentence(rule.reason)}",
    )
    wrapped = [_wrapped(line, "  ") for line in lines]
    return "\n".join([wrapped[0], "", *wrapped[1:]])


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."


def _not_applying() -> str:
    lines = [f"- `{area}`: {reason}" for area, reason in NOT_APPLYING.items()]
    return "\n".join(["## Areas that do not apply", "", *lines])
