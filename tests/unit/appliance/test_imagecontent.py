"""What a drop-in may declare for the image."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ServiceDefinitionError
from appliance.imagecontent import (
    Flavor,
    ImageContent,
    check_image_contents,
    fill_name,
    fill_url,
    parse_image_content,
)

FILE: dict[str, Any] = {
    "name": "tool",
    "release": "tool",
    "url": "https://host.example/{version}/tool-{arch}.tar.gz",
    "sums": "https://host.example/{version}/sums",
    "unpack": "/usr/local",
}
GOOD: dict[str, Any] = {
    "releases": {"tool": "v1.2+3"},
    "files": [FILE, {**FILE, "name": "part", "pick": {"x-{arch}/y": "bin/y"}, "flavors": ["ee"]}],
    "images": [{"release": "tool", "reference": "quay.io/some/image:{version}"}],
    "lists": [{"release": "tool", "url": "https://host.example/list"}],
    "links": {"/usr/bin/tool": "/var/lib/tool"},
    "image_folder": "/var/lib/images",
    "needs": {"programs": ["tool"], "modules": ["overlay"]},
}


def test_a_whole_declaration_is_read() -> None:
    content = parse_image_content(GOOD, "image.yaml")
    tool, part = content.files
    assert (tool.into, tool.is_archive, tool.flavors) == (
        PurePosixPath("/usr/local"),
        True,
        (Flavor.CE, Flavor.EE),
    )
    assert (part.picked, part.flavors) == ((("x-{arch}/y", "bin/y"),), (Flavor.EE,))
    assert content.used_releases() == {"tool"}
    assert content.needs.programs == ("tool",)
    assert content.links == {PurePosixPath("/usr/bin/tool"): PurePosixPath("/var/lib/tool")}


def test_a_plus_in_a_version_is_quoted_in_an_address_only() -> None:
    assert fill_url("https://h/{version}/{arch}", "v1+2", "arm64") == "https://h/v1%2B2/arm64"
    assert fill_name("{version}/{arch}", "v1+2", "arm64") == "v1+2/arm64"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"more": 1}, "more not understood"),
        ({"releases": {"tool": 1.2}}, "quoted versions"),
        ({"releases": {"Tool": "1"}}, "quoted versions"),
        ({"files": [{**FILE, "url": "host/x"}]}, "url: 'host/x'"),
        ({"files": [{**FILE, "url": "https://h/{versoin}"}]}, "only version and arch"),
        ({"files": [{**FILE, "url": "https://h/{0}"}]}, "only version and arch"),
        ({"files": [{**FILE, "url": "https://h/{version:{x}}"}]}, "only version and arch"),
        ({"files": [{**FILE, "url": "https://h/{version!r}"}]}, "only version and arch"),
        ({"files": [{**FILE, "url": "https://h/{version.x}"}]}, "only version and arch"),
        ({"files": [{**FILE, "url": "https://h/{"}]}, "url"),
        ({"files": [{**FILE, "into": "/x"}]}, "either unpack or into"),
        ({"files": [{**FILE, "unpack": "x"}]}, "expected an absolute path"),
        ({"files": [{**FILE, "pick": {"a": "../b"}}]}, "expected a name below"),
        ({"files": [{**FILE, "pick": {"a": "/b"}}]}, "expected a name below"),
        ({"files": [{**FILE, "flavors": ["xe"]}]}, "list of ce and ee"),
        ({"files": [{**FILE, "flavors": []}]}, "list of ce and ee"),
        ({"files": {}}, "files must be a list"),
        ({"images": [{"release": "tool", "reference": "image"}]}, "reference: 'image'"),
        ({"lists": [{"release": "tool"}]}, "url: None"),
        ({"links": ["/a"]}, "links: expected a mapping"),
        ({"links": {"/a": "b"}}, "links: expected an absolute path, found 'b'"),
        ({"links": {"a": "/b"}}, "links: expected an absolute path, found 'a'"),
        ({"links": {"/a": None}}, "links: expected an absolute path, found None"),
        ({"image_folder": "images"}, "image_folder: expected an absolute path"),
        ({"nodes": ["gateway"]}, "nodes must be a list of master, open-master, worker, storage"),
        ({"nodes": []}, "nodes must be a list of"),
        ({"nodes": 1}, "nodes must be a list of"),
        ({"needs": {"programs": "tool"}}, "programs must be a list"),
        ({"needs": {"programs": [1]}}, "programs must be a list of texts"),
        ({"needs": {"program": []}}, "program not understood"),
    ],
)
def test_what_is_not_well_formed_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ServiceDefinitionError) as refused:
        parse_image_content({**GOOD, **change}, "image.yaml")
    assert complaint in str(refused.value)
    assert str(refused.value).startswith("image.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "tool", "/x", "{", "ee"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*GOOD, *FILE, "pick", "programs"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), VALUES), VALUES)
def test_whatever_is_written_is_read_or_refused(document: dict[str, Any], file: Any) -> None:
    for one in (document, {**GOOD, **document}, {**GOOD, "files": [file]}, file):
        try:
            parse_image_content(one, "image.yaml")
        except ServiceDefinitionError as error:
            assert str(error).startswith("image.yaml")


def content(**change: Any) -> ImageContent:
    """Return what the good declaration is with changes."""
    return parse_image_content({**GOOD, **change}, "image.yaml")


def others_images(
    images: list[dict[str, str]], lists: Any = (), releases: Any = None
) -> ImageContent:
    """Return what another drop-in declares, with releases of its own."""
    releases = {"own": "1"} if releases is None else releases
    document = {"releases": releases, "images": images, "lists": list(lists)}
    return parse_image_content(document, "image.yaml")


@pytest.mark.parametrize(
    ("contents", "charts", "complaint"),
    [
        ({"a": content()}, {"tool": "b"}, "release tool: declared by b and by a"),
        (
            {"a": content(), "b": content(releases={"other": "1"}, files=[{**FILE}])},
            {},
            "file tool: declared by a and by b",
        ),
        (
            {"a": content(), "b": content(releases={"other": "1"}, files=[])},
            {},
            "link /usr/bin/tool: declared by a and by b",
        ),
        (
            {"a": content(), "b": others_images([{"release": "tool", "reference": "h.io/x:1"}])},
            {},
            "images of release tool: declared by a and by b",
        ),
        (
            {"a": content(), "b": others_images([], [{"release": "tool", "url": "https://h/l"}])},
            {},
            "images of release tool: declared by a and by b",
        ),
        (
            {
                "a": content(),
                "b": others_images([{"release": "own", "reference": "quay.io/some/image:v1.2-3"}]),
                "c": others_images(
                    [{"release": "more", "reference": "quay.io/some/image:{version}"}],
                    releases={"more": "v1.2-3"},
                ),
            },
            {},
            "image quay.io/some/image:v1.2-3: declared by b and by c",
        ),
        ({"a": content(), "b": ImageContent(image_folder=PurePosixPath("/x"))}, {}, "a and by b"),
        ({"a": content(releases={})}, {}, "a: image.yaml: no release tool"),
        ({"a": content(image_folder=None)}, {}, "no drop-in says an image_folder"),
    ],
)
def test_drop_ins_that_contradict_each_other_are_refused(
    contents: dict[str, ImageContent], charts: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ServiceDefinitionError) as refused:
        check_image_contents(contents, charts)
    assert complaint in str(refused.value)


def test_images_of_two_charts_are_two_while_nobody_knows_the_versions() -> None:
    one, other = (
        content(
            releases={},
            files=[],
            lists=[],
            links={},
            image_folder=folder,
            images=[{"release": release, "reference": "quay.io/some/image:{version}"}],
        )
        for release, folder in (("tool", "/x"), ("other", None))
    )
    check_image_contents({"a": one, "b": other}, {"tool": "a", "other": "b"})


def test_a_release_may_be_that_of_a_chart() -> None:
    check_image_contents({"a": content(releases={})}, {"tool": "a"})
