"""How much memory the verifier may take, and what its sudden end means."""

from __future__ import annotations

import os
import signal

from twotower_server.config import Config


def memory_bytes(config: Config) -> int:
    """What the verifier may allocate; the mapped files of the release do not count."""
    if config.verifier_memory_mib:
        return config.verifier_memory_mib << 20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def out_of_memory(config: Config) -> str:
    """The reason of a refusal."""
    return (
        f"the verifier ran out of memory: it may take {memory_bytes(config) >> 20} MiB; allow more by "
        "--verifier-memory-mib"
    )


def killed_by(number: signal.Signals, config: Config) -> str:
    """The reason of a refusal after a signal ended the verifier."""
    if number == signal.SIGKILL:
        return "the verifier was killed, most likely because the machine ran out of memory; give it more"
    return (
        f"the verifier crashed ({number.name}): a file of the release is broken, or it takes more than "
        f"{memory_bytes(config) >> 20} MiB; allow more by --verifier-memory-mib"
    )
