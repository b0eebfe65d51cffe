"""Worker processes, started again whenever they end, as Kubernetes would."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
STEADY_SECONDS = 20.0
STOP_SECONDS = 30.0
SMALL_FILE = 256
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Worker:
    """One worker and its successors.

    Attributes
    ----------
    crashes
        Exit codes of processes that ended though nobody asked or killed them.
    starts
        How many processes there have been.
    log
        File with what they say.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.crashes: list[int] = []
        self.starts = 0
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._may_start = threading.Event()
        self._may_start.set()
        self._expected = False
        self._limited = False
        # Linux kills the process when this thread ends, so that none is left over
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        """Start the first process."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        with self._changed:
            return None if self._process is None else self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        with self._changed:
            if self._process is not None and self._process.poll() is None:
                self._expected |= number in (signal.SIGKILL, signal.SIGTERM)
                self._process.send_signal(number)

    def hold(self) -> None:
        """Let no successor start for now."""
        self._may_start.clear()

    def release(self) -> None:
        """Let successors start again."""
        self._may_start.set()

    def limit_files(self, limited: bool) -> None:
        """Let the process write hardly anything to any file, or as much as it likes."""
        with self._changed:
            self._limited = limited
            self._apply_limit()

    def await_end(self, start: int) -> bool:
        """Wait until the process number ``start`` has ended."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self.starts > start or self._process is None, STOP_SECONDS
            )

    def stop(self) -> None:
        """End for good: in order if possible; returns at once."""
        self._stopping.set()
        self._may_start.set()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def join(self) -> None:
        """Wait for the end, and force it if it takes too long."""
        self._thread.join(STOP_SECONDS)
        self.signal(signal.SIGKILL)
        self._thread.join(STOP_SECONDS)

    def _supervise(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            self._may_start.wait()
            if self._stopping.is_set():
                break
            began = time.monotonic()
            code = self._run()
            with self._changed:
                self._process = None
                crashed = not self._expected and not self._stopping.is_set()
                if crashed:
                    self.crashes.append(code)
                self._expected = False
                self._changed.notify_all()
            # what was killed or asked to end is started again soon, what crashes ever more slowly
            if not crashed or time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _run(self) -> int:
        with self.log.open("ab") as log, self._spawn() as process:
            with self._changed:
                self._process = process
                self.starts += 1
                self._apply_limit()
                self._changed.notify_all()
            # through a pipe: a limit on the size of files is not to silence the log
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                log.flush()
            return process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )

    def _apply_limit(self) -> None:
        if self._process is not None and self._process.poll() is None:
            size = SMALL_FILE if self._limited else resource.RLIM_INFINITY
            limits = (size, resource.RLIM_INFINITY)
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, limits)


class Workers:
    """All workers of a run, and its trainer if it has one, stopped at the end of the block."""

    def __init__(
        self, count: int, pipeline: Path, folder: Path, mutation: str = "", *, taught: bool = False
    ) -> None:
        program = ["tests.chaos.mutations", mutation] if mutation else ["agents"]

        def made(what: str, log: str) -> Worker:
            command = [sys.executable, "-m", *program, what, str(pipeline), "--port", "0"]
            return Worker(command, folder / f"{log}.log")

        self.each = [made("run", f"worker-{i}") for i in range(count)]
        self.trainer = made("train", "trainer") if taught else None

    def __enter__(self) -> Workers:
        for process in self._processes():
            process.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    def __getitem__(self, number: int) -> Worker:
        return self.each[number]

    def all(self, act: Callable[[Worker], None]) -> None:
        """Do something with every worker."""
        for worker in self.each:
            act(worker)

    def logged(self, text: str) -> int:
        """Count the lines of their logs that contain a text."""
        logs = [worker.log.read_text(errors="replace") for worker in self.each if worker.starts]
        return sum(text in line for log in logs for line in log.splitlines())

    def stop(self) -> None:
        """Stop them all at once, and wait."""
        for process in self._processes():
            process.stop()
        for process in self._processes():
            process.join()

    @property
    def crashes(self) -> list[int]:
        """Exit codes of those that ended by themselves."""
        return [code for process in self._processes() for code in process.crashes]

    def _processes(self) -> list[Worker]:
        return self.each if self.trainer is None else [*self.each, self.trainer]


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setpgid(0, 0)  # Ctrl-C at a terminal is for the harness alone
