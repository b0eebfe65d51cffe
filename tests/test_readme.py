"""The README holds: its commands run, its pipeline is valid, its notebook computes.

Nothing is copied from it, everything is read from it. A command that talks to Kafka is parsed only,
its options and its pipeline file included. ``PIPELINE.yaml`` and ``FILE…`` in the table of commands
become an example and generated records; so does a file of the reader's own that a command reads.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agents.bench.accuracy.csv_files import read_cells
from agents.bench.accuracy.methods import methods_for
from agents.bench.accuracy.report import by_suite, condensed, means
from agents.bench.accuracy.tasks import TASKS
from agents.cli import eddy
from agents.cli_tools import detector_table
from connectors.synthetic import GENERATORS
from detectors import CATALOGUE, detector_class
from schemas.parse import load_pipeline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
KAFKA = {"audit", "broker", "produce", "run", "tail", "topics", "train"}
KAFKA_WORDS = {"--from-topic", "throughput", "latency"}
OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<"}
EXAMPLE = "examples/flows.yaml"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def words_of(line: str) -> list[str]:
    """The words of the first command of a line, without comment and variables set for it."""
    words = shlex.split(line, comments=True)
    words = list(itertools.dropwhile(re.compile(r"\w+=").match, words))
    return list(itertools.takewhile(lambda word: word not in OPERATORS, words))


def shell_lines() -> list[str]:
    """Every command of the shell blocks, continued lines joined, comments left out."""
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if words_of(line)]


def spans() -> list[str]:
    """Text in back quotes outside of the fenced blocks."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def eddy_spans() -> list[list[str]]:
    """Words of the ``eddy`` commands in the prose; ``a / b`` stands for a command each."""
    found = []
    for span in spans():
        first, *others = span.split(" / ")
        if first.startswith("eddy "):
            found += [words_of(first), *([["eddy", other] for other in others])]
    return found


def eddy_commands() -> list[list[str]]:
    """Words of every ``eddy`` command that the README shows."""
    shown = map(words_of, shell_lines())
    return [*(words for words in shown if words[0] == "eddy"), *eddy_spans()]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that ``eddy …`` means, that of a group included, and its arguments."""
    command: click.Command = eddy
    for at, word in enumerate(words[1:], start=1):
        if not isinstance(command, click.Group) or word.startswith("-"):
            return command, words[at:]
        found = command.commands.get(word)
        assert found is not None, f"{' '.join(words)}: no command {word!r}"
        command = found
    return command, []


def options_of(command: click.Command) -> set[str]:
    """Its options, those of its subcommands included."""
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    context = click.Context(command, **eddy.context_settings)
    mine = {name for option in command.get_params(context) for name in option.opts}
    return mine.union(*map(options_of, inner))


def filled(words: list[str]) -> list[str]:
    """Put files in the place of placeholders."""
    names = {"PIPELINE.yaml": EXAMPLE, "FILE": "history.jsonl", "FILE…": "history.jsonl"}
    return [names.get(word, word) for word in words]


def provide(words: list[str], place: Path) -> None:
    """Make the files of the reader's own: a pipeline as the README shows it, generated records."""
    for option, value in itertools.pairwise(words):
        path = place / value
        if option not in ("-i", "--input") or list(place.glob(value)):
            continue
        kind = next((kind for kind in GENERATORS if f"{kind}.yaml" in " ".join(words)), None)
        generator = GENERATORS[kind or "transactions"]
        chunks = generator(seed=0, records=3000, entities=20, anomaly_episodes=2).generate()
        path.write_bytes(b"\n".join(value for chunk in chunks for value in chunk.values))
    for word in words:
        if word.endswith(".yaml") and not (place / word).exists():
            (place / word).write_text(blocks("yaml")[0])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the examples, and ``eddy`` on the path of its shell."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    script = tmp_path / "bin" / "eddy"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m agents "$@"\n')
    script.chmod(0o755)
    return tmp_path


def run(command: str | list[str], place: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, or a command, in the folder."""
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    libraries = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    others = {name: value for name, value in os.environ.items() if not name.startswith("EDDY_")}
    shell = ["bash", "-o", "pipefail", "-c"]
    return subprocess.run(
        [*shell, command] if isinstance(command, str) else command,
        cwd=place,
        env={**others, "PATH": path, "PYTHONPATH": libraries},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_shell_line_is_checked_by_some_test() -> None:
    assert shell_lines()
    for line in shell_lines():
        head, *others = words_of(line)
        # of any other program only what it is to work on can be checked
        checked = head in ("make", "eddy") or any((ROOT / word).exists() for word in others)
        assert checked, f"{line}: neither make nor eddy, and names nothing that is here"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    asked = {
        word
        for line in [*shell_lines(), *spans()]
        if line.startswith("make ")
        for word in words_of(line)[1:]
        if "=" not in word
    }
    assert asked
    assert asked <= targets


@pytest.mark.slow
def test_the_shown_commands_run_in_order(place: Path) -> None:
    shown = [line for line in shell_lines() if words_of(line)[0] == "eddy"]
    table = [shlex.join(filled(words)) for words in eddy_spans() if "PIPELINE.yaml" in words]
    done = 0
    for line in [*shown, *table]:
        words = words_of(line)
        provide(words, place)
        if words[1] in KAFKA or KAFKA_WORDS & set(words):
            command, arguments = command_of(words)
            with contextlib.chdir(place):
                command.make_context(command.name, arguments)
            continue
        found = run(line, place)
        assert found.returncode == 0, f"{line}\n{found.stdout}{found.stderr}"
        done += 1
    assert done >= 3, "at least validate, fit and replay run"


def test_the_pipeline_is_valid(place: Path) -> None:
    assert blocks("yaml")
    for number, block in enumerate(blocks("yaml")):
        path = place / f"block-{number}.yaml"
        path.write_text(block)
        found = run(["eddy", "validate", str(path)], place)
        assert found.returncode == 0, found.stderr


def test_the_notebook_computes(place: Path) -> None:
    assert blocks("python")
    for block in blocks("python"):
        found = run([sys.executable, "-W", "error", "-c", block], place)
        assert found.returncode == 0, found.stderr


def test_every_command_is_named_and_every_named_one_exists() -> None:
    named = {words[1] for words in eddy_commands() if not words[1].startswith("-")}
    assert named == set(eddy.commands)


def test_every_option_exists() -> None:
    named = 0
    for words in eddy_commands():
        asked = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert asked <= options_of(command_of(words)[0]), " ".join(words)
        named += len(asked)
    alone = {span.partition("=")[0] for span in spans() if span.startswith("--")}
    assert alone <= options_of(eddy)
    assert named + len(alone) > 0


def test_every_named_file_and_folder_exists() -> None:
    roots = {path.name for path in ROOT.iterdir()}
    named = {span for span in spans() if re.fullmatch(r"[\w.-]+(/[\w.-]*)+", span)}
    paths = {name for name in named if name.split("/")[0] in roots}
    assert paths
    assert {name for name in paths if not (ROOT / name).exists()} == set()


def test_the_table_of_detectors_is_that_of_the_catalogue() -> None:
    caps = [detector_class(name).caps for name in sorted(CATALOGUE)]
    assert detector_table(caps) in README, "run: eddy detectors --markdown"


def test_the_table_of_accuracy_is_that_of_the_measured_cells() -> None:
    cells = read_cells(ROOT / "tests/accuracy")
    assert cells
    assert condensed(cells) in README, "write there what condensed() makes of tests/accuracy"


@pytest.mark.parametrize(
    ("example", "suite"),
    [("logs", "logs"), ("flows", "flows"), ("transactions", "records"), ("metrics", "series")],
)
def test_an_example_uses_what_is_best_on_data_of_its_kind(example: str, suite: str) -> None:
    cells = by_suite(read_cells(ROOT / "tests/accuracy"))[suite]
    mean = means(one for one in cells if one.method in CATALOGUE)
    (stream,) = load_pipeline(ROOT / f"examples/{example}.yaml").streams.values()
    assert [route.detector for route in stream.routes] == [max(mean, key=mean.__getitem__)]


def test_all_that_is_measured_had_the_same_limits() -> None:
    cells = read_cells(ROOT / "tests/accuracy")
    assert {(one.rows, one.seconds) for one in cells} == {(10_000, 20.0)}
    assert "One seed, 10,000 rows, 20 s of processor time a fit." in README


def test_no_row_of_the_measured_data_sets_is_empty() -> None:
    for suite, cells in by_suite(read_cells(ROOT / "tests/accuracy")).items():
        measured = {(one.task, one.method) for one in cells if not one.failure}
        tasks = {one.task for one in cells}
        assert tasks <= {task.name for task in TASKS if task.suite == suite}
        assert set(itertools.product(tasks, methods_for(suite))) <= measured
