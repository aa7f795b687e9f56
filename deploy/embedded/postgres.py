"""PostgreSQL as the supervisor sees it: where it runs, how it is made on first start, cleared of stale locks, run."""

import os
import secrets
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.binaries import PostgresBinaries, copy_within_reach, find_postgres, version_of
from deploy.embedded.options import Options
from deploy.embedded.private_files import edit_foreign, kept_password, new_password, sync_folder, write_private
from deploy.embedded.privileges import can_reach, candidates, give, make_passable
from deploy.embedded.process import Command, Identity, end_all, living_in, run
from deploy.embedded.sockets import socket_dir
from deploy.embedded.status import StackError

PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
ROLE = "nullspend"
DATABASE = "nullspend"
PROGRAMS = frozenset({"postgres"})

# Only what a local stack needs; the socket and the absence of a TCP listener are given at every start instead.
SETTINGS = """
# Written by NullSpend on first start; yours to change.
timezone = 'UTC'
log_timezone = 'UTC'
"""

# The superuser has no password and so no way in: it acts in single-user mode only, on a stopped cluster.
CLIENTS = "local all all scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Site:
    """What stays the same as long as the launcher lives."""

    binaries: PostgresBinaries
    identity: Identity
    major: int
    cluster: Path
    durable: bool

    @property
    def settings(self) -> tuple[str, ...]:
        """Command-line settings of every run of the server."""
        return () if self.durable else ("-c", "fsync=off", "-c", "full_page_writes=off")


class Postgres:
    name = "postgres"
    stop_signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def __init__(self, data_dir: Path, options: Options) -> None:
        self.log = data_dir / "logs" / "postgres.log"
        self._data_dir = data_dir
        self._options = options
        self._site: Site | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        assert self._url is not None, "the URL is known once the server has started"
        return self._url

    def prepare(self) -> Command:
        site = self._site = self._site or self._choose_site()
        password = self._prepare_cluster(site)
        sockets = socket_dir(self._data_dir, self.name, SOCKET, site.identity)
        for stale in (SOCKET, f"{SOCKET}.lock"):
            (sockets / stale).unlink(missing_ok=True)
        self._url = f"postgresql://{ROLE}:{password}@/{DATABASE}?host={sockets}&port={PORT}"
        where = ("-D", str(site.cluster), "-k", str(sockets), "-p", str(PORT))
        access = ("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700")
        return Command(
            site.binaries.server,
            (*where, *access, *site.settings),
            site.identity,
            cwd=Path("/"),
            # The fast stop; SIGTERM would wait for clients to leave.
            death_signal=signal.SIGINT,
        )

    def ready(self, pid: int) -> bool:
        """The server says so itself on line 8 of its pid file, so no client is needed to ask."""
        assert self._site is not None
        try:
            lines = (self._site.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def mend(self, output: str) -> str | None:  # noqa: ARG002  # PostgreSQL recovers by itself or needs a person
        return None

    def _prepare_cluster(self, site: Site) -> str:
        """Make the cluster, or make an existing one startable; returns the role's password."""
        file = self._data_dir / "postgres.password"
        password = kept_password(file)
        if (site.cluster / "PG_VERSION").exists():
            _check_major(site)
            give(site.cluster, site.identity)
            _end_leftovers(site.cluster)
            if password is None:
                password = new_password()
                _single_user(site, site.cluster, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
                write_private(file, f"{password}\n")
        else:
            password = password or new_password()
            write_private(file, f"{password}\n")
            _initialize(site, password)
            self._link(site.cluster)
        return password

    def _choose_site(self) -> Site:
        found = find_postgres(self._options.lookup)
        problems = []
        for identity in candidates(user_namespaces=self._options.user_namespaces):
            # Where files stay ours in name, they must also be within reach without root's privileges.
            reach = self._data_dir if identity.kind == "namespace" else None
            binaries = self._within_reach(found, identity)
            try:
                major = version_of(binaries.server, identity, reach=reach).major
            except StackError as problem:
                problems.append(str(problem))
                continue
            return Site(binaries, identity, major, self._locate_cluster(identity), self._options.durable)
        raise StackError(
            f"PostgreSQL cannot run for uid {os.geteuid()}: {'; '.join(problems) or 'it refuses this user'}. "
            "Start NullSpend as an ordinary user with a name in /etc/passwd, or set NULLSPEND_DATABASE_URL"
        )

    def _within_reach(self, binaries: PostgresBinaries, identity: Identity) -> PostgresBinaries:
        if binaries.source == "system" or can_reach(binaries.bin_dir, identity):
            return binaries
        make_passable(self._options.state_dir, 0o755)
        return copy_within_reach(binaries, self._options.state_dir)

    def _locate_cluster(self, identity: Identity) -> Path:
        """DATA/postgres, or where that link leads, or a new place if the identity cannot reach it."""
        plain = self._data_dir / "postgres"
        cluster = Path(os.path.realpath(plain))
        if plain.is_symlink() and not cluster.is_dir():
            raise StackError(
                f"{plain} leads to {cluster}, which is gone: bring it back, or remove the link to start empty"
            )
        if can_reach(cluster.parent, identity):
            return cluster
        if cluster.exists():
            raise StackError(
                f"PostgreSQL must run as another user here, who cannot reach {cluster}: "
                f"move {self._data_dir} out of private directories, or start NullSpend as an ordinary user"
            )
        make_passable(self._options.state_dir, 0o755)
        # Named by chance, not after DATA: a removed and recreated DATA must start empty.
        place = self._options.state_dir / secrets.token_hex(6)
        make_passable(place, 0o711)
        if not can_reach(place, identity):
            raise StackError(f"the user PostgreSQL must run as cannot reach {place}: open the folders above it")
        return place / "postgres"

    def _link(self, cluster: Path) -> None:
        plain = self._data_dir / "postgres"
        if os.path.realpath(plain) != str(cluster):
            plain.symlink_to(cluster)


def _check_major(site: Site) -> None:
    made_by = (site.cluster / "PG_VERSION").read_text().strip()
    if made_by != str(site.major):
        raise StackError(
            f"{site.cluster} was made by PostgreSQL {made_by}, but {site.binaries.server} is version {site.major}: "
            f"install PostgreSQL {made_by}, or dump the data there and load it into a new data directory"
        )


def _initialize(site: Site, password: str) -> None:
    """Make the cluster aside and rename it into place, so that a half-made one is never started."""
    cluster = site.cluster
    if cluster.exists() and any(cluster.iterdir()):
        raise StackError(f"{cluster} holds files that are no PostgreSQL cluster: choose another data directory")
    unfinished = cluster.with_name(f"{cluster.name}.initializing")
    end_all(unfinished, PROGRAMS | {"initdb"}, [(signal.SIGKILL, None, 10)])
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    os.chown(unfinished, site.identity.file_uid, site.identity.file_gid)
    # Sorting by bytes with Unicode's upper and lower case, which every build has and no system update changes.
    builtin = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if site.major >= 17 else ()
    arguments = ("-D", str(unfinished), "-U", "postgres", "--auth=reject", "--data-checksums", "--no-instructions")
    waiting = () if site.durable else ("--no-sync",)
    _must_succeed(site, site.binaries.initdb, (*arguments, "--encoding=UTF8", "--locale=C", *builtin, *waiting))
    edit_foreign(unfinished / "postgresql.conf", SETTINGS, append=True)
    edit_foreign(unfinished / "pg_hba.conf", CLIENTS, append=False)
    # The role may make databases (tests) and roles (migrations), but row-level security binds it.
    role = f"CREATE ROLE {ROLE} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'"
    _single_user(site, unfinished, role, f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    unfinished.rename(cluster)
    if site.durable:
        sync_folder(cluster.parent)


def _single_user(site: Site, cluster: Path, *statements: str) -> None:
    """Run statements as superuser without a running server; they go in on stdin, where no process list shows them."""
    text = "".join(f"{statement};\n\n" for statement in statements)
    # -j: a statement ends at a semicolon with an empty line. A failed one is not repeated: it may hold a password.
    quiet = ("-c", "log_checkpoints=off", "-c", "log_min_error_statement=panic")
    arguments = ("--single", "-j", "-D", str(cluster), "-c", "exit_on_error=on", *quiet, *site.settings, "postgres")
    _must_succeed(site, site.binaries.server, arguments, text)


def _must_succeed(site: Site, program: Path, arguments: tuple[str, ...], text: str = "") -> None:
    finished = run(Command(program, arguments, site.identity, cwd=Path("/")), text=text)
    if finished.code != 0:
        raise StackError(f"{program.name} failed: {finished.output[-1000:] or finished.code}")


def _end_leftovers(cluster: Path) -> None:
    """Make sure nothing works on the cluster, then remove the pid file.

    PostgreSQL refuses to start when the file names any living process of its user, related or not.
    """
    pid_file = cluster / "postmaster.pid"
    leader: set[int] = set()
    with suppress(FileNotFoundError, ValueError, IndexError):
        leader = {int(pid_file.read_text().splitlines()[0])}
    led = bool(leader & living_in(cluster, PROGRAMS))
    # Without a postmaster its children leave by themselves, except one that is deep in a query.
    gentle = (signal.SIGINT, leader, 30.0 if led else 0.5)
    end_all(cluster, PROGRAMS, [gentle, (signal.SIGQUIT, None, 5.0), (signal.SIGKILL, None, 5.0)])
    pid_file.unlink(missing_ok=True)
