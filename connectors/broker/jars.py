"""Finding what the broker runs on: a Java runtime, and Kafka's jars.

The jars named by ``pom.xml`` are resolved by Maven once and kept in a cache folder named by the
hash of that file. A folder appears there by a rename, so it is whole or absent.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from schemas.errors import SetupError

__all__ = ["fetched", "find_java", "jars_directory", "kafka_version", "unavailable_reason"]

POM = Path(__file__).with_name("pom.xml")

MINIMUM_JAVA = 17  # Kafka 4 brokers are compiled for it

# A cold local repository and a slow line; without a limit a stalled download would hang a test run.
FETCH_TIMEOUT_SECONDS = 900

# The whole answer takes a tenth of a second; a machine under load gets a hundred times that.
JAVA_TIMEOUT_SECONDS = 15

TAIL_LINES = 15


def kafka_version() -> str:
    """Return the version of Apache Kafka that the broker runs, for example ``"4.4.0"``."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", POM.read_text("utf-8"))
    if found is None:
        message = f"{POM} names no <kafka.version>: restore the file from the distribution"
        raise SetupError(message)
    return found.group(1).strip()


def find_java() -> str:
    """Return the path of the ``java`` program on ``PATH``.

    Only ``PATH`` counts, not ``JAVA_HOME``: what the shell would start is what runs.

    Raises
    ------
    SetupError
        If there is none, or it is older than Java 17.
    """
    java = shutil.which("java")
    wanted = f"install a Java runtime {MINIMUM_JAVA} or newer (for example OpenJDK) and retry"
    if java is None:
        message = f"the development broker needs Java, and PATH has no `java`: {wanted}"
        raise SetupError(message)
    version = _java_version(java)
    if version is None:
        message = f"`{java} -version` does not tell a version, so it is no working Java: {wanted}"
        raise SetupError(message)
    if version < MINIMUM_JAVA:
        message = f"the development broker needs Java {MINIMUM_JAVA}, {java} is {version}: {wanted}"
        raise SetupError(message)
    return java


def fetched() -> bool:
    """Tell whether the jars are in the cache, so that a start needs neither Maven nor network."""
    return _cache_path().is_dir()


def unavailable_reason() -> str | None:
    """Say why the broker cannot run on this machine, or return None when it can.

    Cheap (a look at ``PATH`` and one ``java -version``), and nothing is fetched.
    """
    try:
        find_java()
        if not fetched():
            _find_maven()
    except SetupError as error:
        return str(error)
    return None


def jars_directory() -> Path:
    """Return the folder of Kafka's jars, asking Maven for them the first time.

    Blocks for some seconds when the jars are not in the cache. Several processes may call it at
    once: each resolves into a folder of its own and the first rename wins.

    Raises
    ------
    SetupError
        If Maven is missing or cannot resolve the jars.
    """
    target = _cache_path()
    if target.is_dir():
        return target
    maven = _find_maven()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    except OSError as error:
        message = f"cannot write the jar cache {target.parent} ({error}): set EDDY_CACHE elsewhere"
        raise SetupError(message) from error
    try:
        _copy_dependencies(maven, partial)
        try:
            partial.rename(target)
        except OSError:
            # another process was faster; its folder came from the same pom
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _find_maven() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        message = (
            f"Apache Kafka {kafka_version()} is not in {_cache_path().parent} yet and PATH has no "
            "`mvn` to fetch it: install Apache Maven 3.6.3 or newer and retry"
        )
        raise SetupError(message)
    return maven


def _cache_path() -> Path:
    root = os.environ.get("EDDY_CACHE")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = str(Path(base) / "eddy")
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
    return Path(root) / "kafka" / f"{kafka_version()}-{digest}"


def _copy_dependencies(maven: str, target: Path) -> None:
    command = [maven, "--batch-mode", "--no-transfer-progress", "--quiet", "--file", str(POM)]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={target}"]
    try:
        done = subprocess.run(  # noqa: S603 (a fixed command; the paths are ours)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=FETCH_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        message = f"Maven did not resolve {POM} in {FETCH_TIMEOUT_SECONDS} s: check the network"
        raise SetupError(message) from error
    if done.returncode != 0 or not any(target.glob("kafka_*.jar")):
        tail = "\n".join(done.stdout.strip().splitlines()[-TAIL_LINES:])
        message = (
            f"Maven could not resolve {POM} (exit code {done.returncode}): check the network and "
            f"Maven's settings, then retry; its last words:\n{tail}"
        )
        raise SetupError(message)


@functools.lru_cache(maxsize=8)
def _java_version(java: str) -> int | None:
    """Return the major version that a ``java`` reports, or None when it reports none."""
    try:
        done = subprocess.run(  # noqa: S603 (found on PATH by the caller)
            [java, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=JAVA_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Java 8 and older call themselves 1.8
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found and done.returncode == 0 else None
