"""The small program between Eddy and a Kafka node: no node outlives the process that wanted it.

Run as a file, not imported: ``python guard.py PARENT_PID REMOVE COMMAND… [-- COMMAND…]…``. It runs
the commands in turn while they succeed, the last one being the node. It ends the command that is
running, and itself

- on SIGTERM: by SIGTERM (an orderly shutdown, awaited by the caller);
- on SIGUSR1: by SIGKILL;
- when process PARENT_PID is no longer its parent, whatever killed that: by SIGKILL, and then
  removes the folder REMOVE (``-`` for none), which nobody else is left to do;
- when the guard itself is killed: by the kernel, on Linux.

A process of its own is needed because Linux ends a child when the *thread* that started it ends,
and threads that start a broker come and go. This program has one thread.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# How soon a vanished parent is noticed. Signals and the command's end wake the guard at once.
PARENT_CHECK_SECONDS = 0.25

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run the commands under guard and return the exit code of the last one that ran."""
    parent, remove, *rest = arguments
    wake = _wake_on(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    code = 0
    for command in _split(rest):
        code = _run(command, int(parent), wake)
        if code != 0:
            break
    if os.getppid() != int(parent) and remove != "-":
        shutil.rmtree(remove, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(remove).parent.rmdir()  # the last node of the cluster takes the empty root along
    return code


def _run(command: list[str], parent: int, wake: int) -> int:
    child = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=_die_with_me(),
    )
    while child.poll() is None:
        ready, _, _ = select.select([wake], [], [], PARENT_CHECK_SECONDS)
        for number in os.read(wake, 64) if ready else b"":
            if number in (signal.SIGTERM, signal.SIGINT):
                child.terminate()
            elif number == signal.SIGUSR1:
                child.kill()
        if os.getppid() != parent:
            child.kill()
    return child.returncode


def _wake_on(*signals: signal.Signals) -> int:
    """Return a file descriptor on which each arriving signal's number can be read as a byte."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for each in signals:
        signal.signal(each, lambda *_: None)
    return read


def _die_with_me() -> Callable[[], None] | None:
    """Return what makes the kernel kill the child when the guard dies; None where it cannot."""
    if not sys.platform.startswith("linux"):
        return None
    guard = os.getpid()
    prctl = ctypes.CDLL(None).prctl

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:  # the guard died before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    return arm


def _split(words: list[str]) -> list[list[str]]:
    """Split the words at each ``--``."""
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
