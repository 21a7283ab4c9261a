"""What the caller of a verb asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Options:
    """What the caller asks for.

    Attributes:
        role: The role, where OneGate is not to be asked.
        context_path: The context, where it is not the VM's own.
        service_folders: Where drop-ins are, the one that wins first.
        onegate_timeout_s: The longest OneGate may take to answer, where there is little time; None
            for as long as it is usually given.
        argument: What a task is told besides its name, such as a version; empty for nothing.
    """

    role: str | None = None
    context_path: PurePosixPath | None = None
    dry_run: bool = False
    service_folders: tuple[Path, ...] = ()
    onegate_timeout_s: float | None = None
    argument: str = ""
