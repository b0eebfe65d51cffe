"""A worker in a process of its own, which tests stop, kill and freeze."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

from schemas.config import Kafka

ROOT = Path(__file__).parents[1]

PROGRAM = """
import json, sys, time
from connectors.kafka.worker import KafkaWorker
from schemas.config import Kafka
from tests.kafka_support import Notes

options = json.loads(sys.argv[1])

def say(fetches):
    time.sleep(options["sleep"])
    print("processed", sum(map(len, fetches)), flush=True)

class Telling(Notes):
    def assigned(self, committed, generation):
        print("assigned", len(committed), flush=True)
        time.sleep(options["restore"])
        return super().assigned(committed, generation)

notes = Telling(options["target"])
notes.before = say
print("started", flush=True)
KafkaWorker(Kafka(bootstrap=options["bootstrap"]), options["group"], [options["topic"]], notes,
            batch=options["batch"], exactly_once=options["exactly_once"]).run()
print("ended", len(notes.seen), flush=True)
"""


class Process:
    """A worker in a process of its own; its group is named like its topic."""

    def __init__(
        self,
        config: Kafka,
        topic: str,
        target: str | None = None,
        sleep: float = 0.0,
        *,
        batch: int = 1000,
        exactly_once: bool = False,
        restore: float = 0.0,
    ) -> None:
        options = {
            "bootstrap": config.bootstrap,
            "group": topic,
            "topic": topic,
            "target": target,
            "sleep": sleep,
            "batch": batch,
            "exactly_once": exactly_once,
            "restore": restore,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), json.dumps(options)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += self.process.stdout

    def said(self, words: str, times: int = 1) -> bool:
        return sum(words in line for line in list(self.lines)) >= times

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def ends(self, seconds: float) -> float:
        """Wait for the end and return how long it took."""
        begin = time.monotonic()
        self.process.wait(seconds)
        return time.monotonic() - begin

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
