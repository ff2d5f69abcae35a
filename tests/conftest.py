"""Fixtures shared by all tests: the real corpus, the partners on this machine, a PostgreSQL server of our own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from sqlalchemy import make_url

from iap_node.database.engine import Database, migrate

REPOSITORY = Path(__file__).resolve().parent.parent
MR_REAL = REPOSITORY.parent / "shared" / "data" / "mr-real"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under IAP_NODE_TEST_EVERYTHING (CI) a skipped test has failed, unless it needs a CUDA device."""
    report = yield
    everything = bool(os.environ.get("IAP_NODE_TEST_EVERYTHING"))
    if everything and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("cuda"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, although everything must run here: {reason}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what a module makes once run in one process: two would make it twice."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("xdist_group") is None:
            fixtures = item._fixtureinfo.name2fixturedefs.values()
            if any(definition.scope == "module" for definitions in fixtures for definition in definitions):
                item.add_marker(pytest.mark.xdist_group(item.module.__name__))


@pytest.fixture(autouse=True)
def logs_of_commands_end_with_them() -> Iterator[None]:
    """A command that a test runs in this process logs to where that test listens: nobody does afterwards."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def mr_real() -> Path:
    """Folder of the 39 real MR series (read-only)."""
    if not MR_REAL.is_dir():
        pytest.skip(f"the real MR corpus is not at {MR_REAL}; put it there to run this test")
    return MR_REAL


# Where others' programs are: pynetdicom puts a storescu of its own beside the Python of an activated environment.
_PATH_OF_OTHERS = [
    folder for folder in os.environ.get("PATH", "").split(os.pathsep) if Path(folder) != Path(sys.executable).parent
]


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], str]:
    """Finds a program that a test drives: `program("storescu", "dcmtk")`; skips with what to install when absent."""

    def find(name: str, debian_package: str) -> str:
        path = shutil.which(name, path=os.pathsep.join(_PATH_OF_OTHERS))
        if path is None:
            pytest.skip(f"{name} is not installed; apt-get install {debian_package}")
        return path

    return find


class PostgresqlServer:
    """A PostgreSQL server of the test run's own, reached through a socket in its own folder.

    Flushing is off unless `durable`: most tests end with the server, and what a flush is good for they cannot show.
    """

    def __init__(self, programs: Path, folder: Path, *, durable: bool = False) -> None:
        self._programs = programs
        self._folder = folder
        self._data = folder / "data"
        self._fsync = "on" if durable else "off"
        self._database_number = itertools.count()
        self._template = ""
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root; Debian's package makes the user postgres
        self._user: dict[str, Any] = (
            {"user": "postgres", "group": "postgres", "extra_groups": ()} if os.geteuid() == 0 else {}
        )

    def start(self) -> None:
        """Make a cluster and start the server; returns when it answers."""
        self._run(
            "initdb", "-U", "iap", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", str(self._data)
        )
        self.start_again()
        template = Database(self.create_database())
        migrate(template)
        template.dispose()
        self._template = template.engine.url.database or ""

    def start_again(self) -> None:
        """Start the server on its cluster; after `stop` or `kill` it recovers first."""
        settings = (f"unix_socket_directories={self._folder}", "listen_addresses=", "max_connections=200")
        arguments = [option for setting in (*settings, f"fsync={self._fsync}") for option in ("-c", setting)]
        log = self._folder / "log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                **self._user,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server at once, without a checkpoint: pg_ctl's immediate mode."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL to the server alone."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        """Returns when what the server had started has ended too: until then no other can start."""
        assert self._process is not None
        if self._process.poll() is not None:
            return
        _, *children = descendants(self._process.pid)
        self._process.send_signal(number)
        self._process.wait(60)
        deadline = time.monotonic() + 60
        while any(map(is_running, children)):
            assert time.monotonic() < deadline, "what the server started does not end"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, migrated: bool = False) -> str:
        """A new database; its URL."""
        name = f"test_{next(self._database_number)}"
        copy = f" TEMPLATE {self._template}" if migrated else ""
        self._execute(f"CREATE DATABASE {name}{copy}")
        return f"postgresql://iap@/{name}?host={self._folder}"

    def drop_database(self, url: str) -> None:
        """Drop a database of `create_database`, whoever is connected."""
        self._execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(
            host=str(self._folder), user="iap", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)  # type: ignore[arg-type]  # names are this class's own

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            **self._user,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


def is_running(process: int) -> bool:
    """Whether a process of this number runs; one that ended and waits for its parent does not."""
    state = _state_and_parent(process)
    return state is not None and state[0] != "Z"


def descendants(process: int) -> list[int]:
    """A process, and what it started, and what that started."""
    children: dict[int, list[int]] = {}
    for other in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        if (state := _state_and_parent(other)) is not None:
            children.setdefault(state[1], []).append(other)
    found = [process]
    for parent in found:
        found.extend(children.get(parent, ()))
    return found


def _state_and_parent(process: int) -> tuple[str, int] | None:
    try:
        state, parent, *_ = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def _postgresql_programs() -> Path | None:
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: -int(p.parts[4]))
    found = shutil.which("initdb")
    return newest_first[0].parent if newest_first else Path(found).parent if found else None


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[PostgresqlServer]:
    """A PostgreSQL server of its own while the block runs; skips the test where PostgreSQL is not installed."""
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    # not in pytest's own folder: a socket's path has at most 107 characters
    with tempfile.TemporaryDirectory(prefix="iap-postgresql-") as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = PostgresqlServer(programs, Path(folder), durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server that runs until the tests end; one per pytest-xdist worker that asks for it."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.dispose()  # the last connection writes the log back: the file is whole
    return path


def _new_database_url(request: pytest.FixtureRequest, kind: str, migrated: bool) -> Iterator[str]:
    if kind == "sqlite":
        path = request.getfixturevalue("tmp_path") / "node.sqlite"
        if migrated:
            shutil.copyfile(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql")
        url = server.create_database(migrated)
        yield url
        server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database without tables: once on SQLite, once on PostgreSQL."""
    yield from _new_database_url(request, request.param, migrated=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database with its tables: once on SQLite, once on PostgreSQL."""
    for url in _new_database_url(request, request.param, migrated=True):
        opened = Database(url)
        yield opened
        opened.dispose()
