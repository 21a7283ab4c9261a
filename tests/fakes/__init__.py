"""Stand-ins for every part of `System`: typed like the real ones, all in memory, and strict.

All of them note what they change on one tape, so that a test can say "nothing was changed", or cut
the power before any one of the changes.
"""

from tests.fakes.clock import FakeClock
from tests.fakes.commands import Call, FakeCommands
from tests.fakes.disks import FakeDisks, make_disk
from tests.fakes.files import FakeFiles
from tests.fakes.kubernetes import FakeKubernetes, make_node, make_pod
from tests.fakes.log import FakeLog
from tests.fakes.machine import make_system
from tests.fakes.network import FakeNetwork, make_link
from tests.fakes.onegate import FakeOneGate
from tests.fakes.packetfilter import FakePacketFilter
from tests.fakes.sockets import FakeSockets
from tests.fakes.supervisor import FakeSupervisor, Serving
from tests.fakes.tape import PowerCut, Tape
from tests.fakes.units import FakeUnits

__all__ = [
    "Call",
    "FakeClock",
    "FakeCommands",
    "FakeDisks",
    "FakeFiles",
    "FakeKubernetes",
    "FakeLog",
    "FakeNetwork",
    "FakeOneGate",
    "FakePacketFilter",
    "FakeSockets",
    "FakeSupervisor",
    "FakeUnits",
    "PowerCut",
    "Serving",
    "Tape",
    "make_disk",
    "make_link",
    "make_node",
    "make_pod",
    "make_system",
]
