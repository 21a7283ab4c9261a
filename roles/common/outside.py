"""What a node has to fetch from other machines than those of its service, and from where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from appliance.errors import ParameterProblems, Problem
from appliance.imagecontent import ImageContent
from appliance.role import StatusLine
from roles.common.components import ChartSource
from roles.common.imagestore import Stored
from roles.common.registries import is_mirrored
from roles.common.rke2params import AirgapParams, RegistryParams, Rke2Params

KEY = "ONEAPP_ONEKE_AIRGAPPED"
TIME_SERVERS = PurePosixPath("/etc/systemd/timesyncd.conf.d/50-oneke.conf")
"""Where an image names time servers of its own; without it those of the distribution are asked."""

_NTP = "NTP="
_OF_RKE2 = "rke2"
# Images of RKE2's archives and of published lists have no registry in their names.
_HUB = "docker.io"
_FULL_IMAGE = "take an image of flavor EE, or name a registry in ONEAPP_RKE2_REGISTRY_ENDPOINTS"


class OutsideParams(Protocol):
    """What is said about the way out."""

    @property
    def airgap(self) -> AirgapParams:
        """Whether there is one."""

    @property
    def rke2(self) -> Rke2Params:
        """Proxies."""

    @property
    def registries(self) -> RegistryParams:
        """Where images are fetched from."""


@dataclass(frozen=True)
class Outside:
    """Something that is fetched.

    Attributes:
        where: Words for who has it.
        is_told: Whether the parameters say so, so that it is within reach.
        hint: How it need not be fetched, or can be from within.
    """

    what: str
    where: str
    is_told: bool
    hint: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.what} from {self.where}"


def find_outside(
    params: OutsideParams,
    needed: Mapping[str, ImageContent],
    charts: Mapping[str, ChartSource],
    stored: Stored,
) -> Iterator[Outside]:
    """Yield what the image does not have.

    Args:
        params: Of the node.
        needed: The drop-ins whose images it has to have, with what they say of them.
        charts: The charts that it deploys, by drop-in.
        stored: What the image has.
    """
    without: dict[tuple[str, bool], list[str]] = {}
    for name, image in needed.items():
        if name not in stored.archives:
            without.setdefault(way_to_images(params, image), []).append(name)
    for (where, is_told), names in without.items():
        yield Outside(f"images of {', '.join(names)}", where, is_told, _FULL_IMAGE)
    for source in charts.values():
        found = stored.charts.get(source.file)
        if found is None or not found.content:
            yield _chart(source, params, is_large=found is not None)


def way_to_images(params: OutsideParams, image: ImageContent) -> tuple[str, bool]:
    """Say where the images of a drop-in are fetched, and whether the parameters say so."""
    registries = params.registries
    own = registries.system_default if _is_of_rke2(image) else None
    named = {str(own)} if own else _registries_of(image)
    if is_mirrored(registries, named):
        said = "where ONEAPP_RKE2_REGISTRIES says"
        return said if registries.own_text else ", ".join(registries.endpoints or ()), True
    if own:
        return str(own), True
    return "their registries", _has_proxy(params)


def _is_of_rke2(image: ImageContent) -> bool:
    is_fetched_alone = not image.images and not image.lists
    return is_fetched_alone and any(file.release == _OF_RKE2 for file in image.files)


def _registries_of(image: ImageContent) -> frozenset[str]:
    named = {one.reference.partition("/")[0] for one in image.images}
    return frozenset(named | ({_HUB} if image.files or image.lists else set()))


def _chart(source: ChartSource, params: OutsideParams, *, is_large: bool) -> Outside:
    why = "is too large to be given to the cluster" if is_large else "is not in the image"
    return Outside(
        f"chart {source.chart} {source.version}, which {why},",
        source.repo,
        _has_proxy(params),
        "leave its version unset for the one that the image has",
    )


def _has_proxy(params: OutsideParams) -> bool:
    return bool(params.rke2.https_proxy or params.rke2.http_proxy)


# ---- what is said of it


def refuse_outside(params: OutsideParams, found: Sequence[Outside]) -> None:
    """Refuse what can not be reached, before anything waits for it in vain.

    Raises:
        ParameterProblems: There is no way out, and something has to be fetched.
    """
    beyond = [one for one in found if not one.is_told] if params.airgap.enabled else []
    if beyond:
        raise ParameterProblems(
            [Problem(KEY, "YES", f"there is no way to fetch {one}; {one.hint}") for one in beyond]
        )


def describe_outside(
    params: OutsideParams, found: Sequence[Outside], time_servers: str | None
) -> Iterator[StatusLine]:
    """Describe what is fetched, and whether that can be; then whose clock is followed.

    Args:
        params: Of the node.
        found: What is fetched.
        time_servers: What the image's file says; None where there is none.
    """
    is_closed = params.airgap.enabled
    said = "; ".join(map(str, found)) if found else "nothing is fetched: the image has it all"
    can_be = not is_closed or all(one.is_told for one in found)
    yield StatusLine("outside", said, is_well=can_be, is_vital=False)
    if is_closed:
        servers = _named_servers(time_servers or "")
        said = servers or "the distribution's servers are out of reach: build with ntp_servers"
        yield StatusLine("time", said, is_well=bool(servers), is_vital=False)


def _named_servers(text: str) -> str:
    lines = (line for line in text.splitlines() if line.startswith(_NTP))
    return next(lines, "").removeprefix(_NTP).strip()
