"""The disk whole machines boot from, and what is said over the sockets of QEMU and the guest."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.image.disk import EXTRAS, BootDisk, current_disk, disk_key, kept_disk
from tests.image.monitor import GuestAgent, Monitor
from tests.image.qemu import qemu_argv
from tests.lab.bake import RELEASES, Cache, Step, plan_steps
from tests.lab.basics import REPOSITORY, LabError


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextmanager
def answering(path: Path, greeting: str, answers: list[str]) -> Iterator[list[dict[str, object]]]:
    """A socket whose far end says one line for each it is told; gives what it was told."""
    told: list[dict[str, object]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as lines:
            lines.write(greeting.encode("latin-1"))
            lines.flush()
            for answer in answers:
                told.append(json.loads(lines.readline().lstrip(b"\xff")))
                number = told[-1].get("arguments", {}).get("id", "")
                lines.write(answer.replace("ID", str(number)).encode("latin-1"))
                lines.flush()

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield told
    finally:
        server.join(10)
        listener.close()


def test_what_qemu_tells_of_itself_is_no_answer(tmp_path: Path) -> None:
    answers = ['{"return": {}}\n', '{"event": "RESET"}\n{"return": {"running": true}}\n']
    path = tmp_path / "monitor.sock"
    with answering(path, '{"QMP": {}}\n', answers) as told:
        assert Monitor(path).execute("query-status", verbose=True) == {"running": True}
    assert told[1] == {"execute": "query-status", "arguments": {"verbose": True}}


def test_a_refusal_is_told_in_qemus_words(tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    answers = ['{"return": {}}\n', '{"error": {"class": "GenericError", "desc": "no such disc"}}\n']
    with (
        answering(path, '{"QMP": {}}\n', answers),
        pytest.raises(LabError, match="eject: no such disc"),
    ):
        Monitor(path).execute("eject")


def test_an_answer_to_somebody_before_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    done = {"exited": True, "exitcode": 3, "out-data": encoded("out\n"), "err-data": encoded("e")}
    answers = [
        '{"return": {"pid": 7}}\n\xff{"return": ID}\n',
        '{"return": {"pid": 42}}\n',
        '{"return": {"exited": false}}\n',
        json.dumps({"return": done}) + "\n",
    ]
    with answering(path, "", answers) as told:
        finished = GuestAgent(path).run(["cat", "-"], "text", 10)
    assert (finished.status, finished.stdout, finished.stderr) == (3, "out\n", "e")
    assert told[1]["arguments"]["input-data"] == encoded("text")
    assert told[3] == {"execute": "guest-exec-status", "arguments": {"pid": 42}}


def test_a_machine_that_says_nothing_is_not_waited_for_without_end(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(LabError, match=r"agent\.sock: timed out"):
            GuestAgent(path).run(["true"], None, 10, answer_s=0.05)


def test_a_machine_is_emulated_and_loses_in_a_power_cut_what_it_did_not_flush() -> None:
    argv = qemu_argv(
        Path("/vm"),
        kept_disk(Path("/disks/one")),
        disc=Path("/vm/context.iso"),
        disks=[("/dev/loop1", "replicas")],
        nics=[("storage0-eth0", "02:00:ac:14:00:67")],
        memory_mib=768,
    )
    assert argv[argv.index("-accel") + 1].startswith("tcg")
    drives = [value for option, value in itertools.pairwise(argv) if option == "-drive"]
    files = [drive.rpartition("file=")[2] for drive in drives]
    assert files == ["/vm/disk.qcow2", "/dev/loop1", "/vm/context.iso"]
    written = [drive for drive in drives if "readonly=on" not in drive]
    assert all("cache=writeback" in drive for drive in written)
    assert all("unsafe" not in drive for drive in drives)
    [nic] = [value for value in argv if value.startswith("virtio-net-pci")]
    assert "mac=02:00:ac:14:00:67" in nic


@pytest.mark.parametrize(
    ("disk", "has_kernel"),
    [(kept_disk(Path("/disks/one")), True), (BootDisk(Path("/one.qcow2"), "qcow2"), False)],
)
def test_a_kernel_is_handed_over_where_the_disk_has_no_boot_loader(
    disk: BootDisk, has_kernel: bool
) -> None:
    argv = qemu_argv(
        Path("/vm"), disk, disc=Path("/vm/context.iso"), disks=[], nics=[], memory_mib=768
    )
    options = {"-kernel", "-initrd", "-append"}
    assert options & set(argv) == (options if has_kernel else set())


def test_the_kernel_is_there_before_the_scripts_that_may_care_about_it() -> None:
    names = [step.name for step in plan_steps(REPOSITORY, RELEASES[0], "x86_64", "6.1", EXTRAS)]
    assert names.index("10-packages.sh") + 1 == names.index("image-kernel")
    assert names.index("lab-context") + 1 == names.index("image-machine")
    assert len(set(names)) == len(names)


def test_a_disk_that_belongs_to_other_layers_is_not_taken_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEKE_IMAGE_DISK", "ONEKE_LAB_STALE"):
        monkeypatch.delenv(name, raising=False)
    layers = (Step("base", None, "lower"), Step("90-clean.sh", None, "topmost"))
    monkeypatch.setattr("tests.image.disk.working_tree_steps", lambda *_: layers)
    cache = Cache(tmp_path)
    for number, name in enumerate(("older", "newest")):
        folder = tmp_path / "disks" / name
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    with pytest.raises(LabError, match=r"tests\.image bake"):
        current_disk(cache=cache)
    monkeypatch.setenv("ONEKE_LAB_STALE", "1")
    assert current_disk(cache=cache).folder.name == "newest"
    monkeypatch.delenv("ONEKE_LAB_STALE")
    wanted = tmp_path / "disks" / disk_key("topmost")
    wanted.mkdir()
    assert current_disk(cache=cache).folder == wanted
