"""The log: every estimate that was given, and what came of it, in SQLite or PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from pricer.errors import PricerError, first_line, quoted, without_passwords
from pricer.serving.problems import Problem

MIGRATIONS = Path(__file__).parent / "migrations"
# of a server that answers slowly, and of one that has vanished without a word
POSTGRESQL_TIMEOUTS = {
    "connect_timeout": 5,
    "options": "-c statement_timeout=10000",
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
SQLITE_TIMEOUTS = {"timeout": 5}
MIGRATING = 7_163_526_391_024  # PostgreSQL's lock while one process migrates: any number
POSTGRESQL = "postgresql+psycopg"


class Utc(sa.TypeDecorator[datetime]):
    """A time in UTC; SQLite forgets the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: object) -> datetime | None:
        """Return the time with its zone."""
        if value is None or value.tzinfo:
            return value and value.astimezone(UTC)
        return value.replace(tzinfo=UTC)


SHOWN_OUTCOMES = 100  # of an estimate, the newest

schema = sa.MetaData()
estimates = sa.Table(
    "estimates",
    schema,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("created_at", Utc, nullable=False, index=True),
    # what priced it: name of the variant, and hash of its serving record
    sa.Column("variant", sa.String(40), nullable=False),
    sa.Column("model_sha256", sa.String(64)),
    # why that variant: default, split, named; shadow where another one's estimate was the answer
    sa.Column("assignment", sa.String(10), nullable=False),
    sa.Column("shadow_of", sa.String(32), index=True),
    sa.Column("subject_sha256", sa.String(64), nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("description_sha256", sa.String(64), nullable=False),
    sa.Column("category", sa.Text),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("estimate_usd", sa.Float, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("low_usd", sa.Float),
    sa.Column("high_usd", sa.Float),
    sa.Column("calibrated", sa.Boolean, nullable=False),
    sa.Column("price_mass", sa.Float),
    sa.Column("truncated", sa.Boolean, nullable=False),
    # of the model's distribution: mean absolute error that it expects, 5% to 95% quantiles
    sa.Column("expected_error_usd", sa.Float),
    sa.Column("quantiles_usd", sa.JSON),
    sa.Column("neighbors", sa.JSON),
    sa.Column("words_estimate_usd", sa.Float),
    sa.Column("fallback", sa.String(20)),
)
outcomes = sa.Table(
    "outcomes",
    schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(
        "estimate_id", sa.String(32), sa.ForeignKey(estimates.c.id), nullable=False, index=True
    ),
    sa.Column("price_usd", sa.Float, nullable=False),
    sa.Column("recorded_at", Utc, nullable=False),
)

# the outcome of an answer is that of a shadow beside it too; each half finds its rows by an index
OF_ESTIMATE = sa.or_(
    sa.and_(estimates.c.id == outcomes.c.estimate_id, estimates.c.shadow_of.is_(None)),
    estimates.c.shadow_of == outcomes.c.estimate_id,
)
_later = outcomes.alias()
NEWEST = ~sa.exists().where(
    _later.c.estimate_id == outcomes.c.estimate_id, _later.c.id > outcomes.c.id
)

Row = dict[str, Any]


Columns = dict[str, Sequence[Any]]

QUANTILES = range(5, 100, 5)  # percent, of `quantiles_usd`
# of an estimate, as it is monitored: beside these, `description` of a part of them, `similarity`
# to its nearest neighbour, and of its outcome `price_usd` and `recorded_at`
SEEN = (
    *("created_at", "description_sha256", "category", "estimate_usd", "low_usd", "high_usd"),
    *("level", "price_mass", "truncated", "expected_error_usd", "quantiles_usd", "fallback"),
)
PART = 20_000  # rows in memory at once


@dataclass(frozen=True)
class Selection:
    """Which estimates are read.

    Attributes:
        variant: that made them; None for any, whatever model it was.
        model_sha256: that it was then.
        since: when, at the earliest; None for the first.
        until: before then.
        described: share of them whose description is read too.
    """

    variant: str | None
    model_sha256: str | None
    since: datetime | None = None
    until: datetime | None = None
    described: float = 1.0


class LogError(PricerError):
    """The database does not answer, or takes no more."""


class RowError(LogError):
    """The database does not take what a row holds."""


class Log:
    """The log, open; used from any thread."""

    def __init__(self, database: str, *, create: bool = True) -> None:
        """Open a database, bring its tables up to date.

        Args:
            database: path of an SQLite file, or a PostgreSQL URL.
            create: make the file where there is none.

        Raises:
            LogError: it cannot be opened, or is of a newer pricer.
        """
        self.url = _url(database)
        if not (create or self.url.drivername == POSTGRESQL or Path(database).exists()):
            raise LogError(f"{database}: there is no log, `pricer serve` writes one")
        self.where = _shown(self.url)
        if self.url.drivername == POSTGRESQL:
            arguments: Row = POSTGRESQL_TIMEOUTS
        else:
            arguments = SQLITE_TIMEOUTS
        self._engine = sa.create_engine(self.url, pool_pre_ping=True, connect_args=arguments)
        if self.url.drivername != POSTGRESQL:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        # in SQLite, who will write waits at once: who has read first could not wait any more
        self._writing = self._engine.execution_options(writes=True)
        try:
            with self._one_line():
                if not (create or sa.inspect(self._engine).has_table("alembic_version")):
                    raise LogError(f"{self.where}: is no log, `pricer serve` writes one")
                self._migrate()
        except BaseException:
            self.close()
            raise

    def _migrate(self) -> None:
        config = Config(attributes={"script_location": str(MIGRATIONS)})
        config.set_main_option("script_location", str(MIGRATIONS))
        try:
            if self.url.drivername == POSTGRESQL:
                with self._engine.begin() as connection:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                return
            with FileLock(f"{self.url.database}.lock"), self._writing.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise LogError(
                f"{self.where}: cannot be brought up to date ({first_line(error)}): it may be of a "
                "newer pricer; take that, or another database"
            ) from None

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def check(self) -> None:
        """Raise LogError unless the database answers."""
        with self._one_line(), self._engine.connect() as connection:
            connection.execute(sa.select(estimates.c.id).limit(1))

    def add(self, rows: Sequence[Row]) -> None:
        """Write estimates, all or none; on the disk when this returns.

        Raises:
            LogError: that was not possible.
        """
        with self._one_line(), self._writing.begin() as connection:
            connection.execute(sa.insert(estimates), list(rows))

    def add_outcomes(self, prices: Sequence[tuple[str, float]]) -> list[Row]:
        """Write what products sold for, by estimate id (USD), all or none.

        Returns:
            The estimates, see `read`, in order.

        Raises:
            Problem: unknown-estimate.
            LogError: it was not possible.
        """
        now = datetime.now(UTC)
        with self._one_line(), self._writing.begin() as connection:
            wanted = [one for one, _ in prices]
            known = set(
                connection.scalars(sa.select(estimates.c.id).where(estimates.c.id.in_(wanted)))
            )
            for one in wanted:
                if one not in known:
                    raise Problem("unknown-estimate", f"{one}: no estimate has this id")
            rows = [
                {"estimate_id": one, "price_usd": price, "recorded_at": now}
                for one, price in prices
            ]
            connection.execute(sa.insert(outcomes), rows)
            return [_with_outcomes(connection, one) for one in wanted]

    def read(self, estimate_id: str) -> Row:
        """Return an estimate with its newest `outcomes`, in the order they came.

        Raises:
            Problem: unknown-estimate.
            LogError: the database does not answer.
        """
        with self._one_line(), self._engine.connect() as connection:
            return _with_outcomes(connection, estimate_id)

    def newest_model(self, variant: str) -> str | None:
        """Return the hash of the model that a variant was last, None where it answered nothing.

        Raises:
            LogError: the database does not answer.
        """
        newest = (
            sa.select(estimates.c.model_sha256)
            .where(estimates.c.variant == variant)
            .order_by(estimates.c.created_at.desc())
            .limit(1)
        )
        with self._one_line(), self._engine.connect() as connection:
            return connection.scalar(newest)

    def count(self, selection: Selection) -> int:
        """Return how many estimates, or outcomes if they are more, there are.

        Raises:
            LogError: the database does not answer.
        """
        count = sa.select(sa.func.count())
        queries = [
            count.where(*_selected(selection), *_within(estimates.c.created_at, selection)),
            count.select_from(outcomes.join(estimates, OF_ESTIMATE)).where(
                *_selected(selection), *_within(outcomes.c.recorded_at, selection)
            ),
        ]
        with self._reading_much() as connection:
            return max(connection.scalar(query) or 0 for query in queries)

    def estimates_of(self, selection: Selection) -> Iterator[Columns]:
        """Yield columns of estimates, see SEEN, in the order they were made, PART rows at once.

        Raises:
            LogError: the database does not answer.
        """
        nothing = [sa.null().label("price_usd"), sa.null().label("recorded_at")]
        query = (
            sa.select(*_seen(selection), *nothing)
            .where(*_selected(selection), *_within(estimates.c.created_at, selection))
            .order_by(estimates.c.created_at)
        )
        yield from self._parts(query)

    def outcomes_of(self, selection: Selection) -> Iterator[Columns]:
        """Yield columns of estimates whose newest outcome came in the period, in that order.

        The outcome of the answer that a shadow was beside is the shadow's too.

        Raises:
            LogError: the database does not answer.
        """
        query = (
            sa.select(*_seen(selection), outcomes.c.price_usd, outcomes.c.recorded_at)
            .join(outcomes, OF_ESTIMATE)
            .where(
                NEWEST,
                *_selected(selection),
                *_within(outcomes.c.recorded_at, selection),
            )
            .order_by(outcomes.c.recorded_at, outcomes.c.id)
        )
        yield from self._parts(query)

    def _parts(self, query: sa.Select[Any]) -> Iterator[Columns]:
        with self._reading_much() as connection:
            result = connection.execution_options(yield_per=PART).execute(query)
            names = list(result.keys())
            for rows in result.partitions():
                yield dict(zip(names, zip(*rows, strict=True), strict=True))

    def judged(self) -> Iterator[Row]:
        """Yield what estimates with an outcome are judged by, in the order outcomes came.

        The last outcome of each counts. `shadow_of` names the answer that a shadow was beside,
        whose outcome is the shadow's too.

        Raises:
            LogError: the database does not answer.
        """
        query = (
            sa.select(
                estimates.c.id,
                estimates.c.created_at,
                estimates.c.variant,
                estimates.c.model_sha256,
                estimates.c.assignment,
                estimates.c.shadow_of,
                estimates.c.subject_sha256,
                estimates.c.estimate_usd,
                estimates.c.fallback,
                outcomes.c.price_usd,
            )
            .join(outcomes, OF_ESTIMATE)
            .where(NEWEST)
            .order_by(outcomes.c.id, estimates.c.id)
        )
        with self._reading_much() as connection:
            for row in connection.execution_options(yield_per=10_000).execute(query).mappings():
                yield dict(row)

    @contextmanager
    def _reading_much(self) -> Iterator[sa.Connection]:
        """Connect for a query over all of the log, which takes longer than an answer may."""
        with self._one_line(), self._engine.connect() as connection:
            if self.url.drivername == POSTGRESQL:
                connection.execute(sa.text("SET LOCAL statement_timeout = '10min'"))
            yield connection

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Tell in one line what a database refuses."""
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            kind = RowError if isinstance(error, DataError | IntegrityError) else LogError
            raise kind(f"{self.where}: {without_passwords(first_line(reason))}") from error


def _seen(selection: Selection) -> list[sa.ColumnElement[Any]]:
    """Return the columns of an estimate, see SEEN, without those of its outcome."""
    # ids are random: those below a bound are a fair sample
    bound = f"{int(selection.described * 16**8):08x}" if selection.described < 1 else "g"
    told: list[sa.ColumnElement[Any]] = [
        sa.case((estimates.c.id < bound, estimates.c.description)).label("description"),
        estimates.c.neighbors[(0, "similarity")].as_float().label("similarity"),
    ]
    return told + [estimates.c[name] for name in SEEN]


def _selected(selection: Selection) -> list[sa.ColumnElement[bool]]:
    variant, model = selection.variant, selection.model_sha256
    if variant is None:
        return []
    return [estimates.c.variant == variant, estimates.c.model_sha256 == model]


def _within(when: sa.ColumnElement[datetime], selection: Selection) -> list[sa.ColumnElement[bool]]:
    bounds = []
    if selection.since:
        bounds.append(when >= selection.since)
    if selection.until:
        bounds.append(when < selection.until)
    return bounds


def _url(database: str) -> URL:
    """Return where a database is.

    Raises:
        LogError: it is neither a file's path nor a PostgreSQL URL.
    """
    if "://" not in database:
        path = Path(database)
        if not path.parent.is_dir():
            raise LogError(
                f"{database}: there is no folder {path.parent}: make it, or name another"
            )
        if path.is_dir():
            raise LogError(f"{database}: is a folder, must be a file's path or a PostgreSQL URL")
        return URL.create("sqlite", database=str(path))
    try:
        url = make_url(database)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in ("postgresql", "postgres", POSTGRESQL):
        raise LogError(
            f"--database {quoted(without_passwords(database))}: must be the path of an SQLite "
            "file, or postgresql://USER:PASSWORD@HOST/NAME"
        )
    return url.set(drivername=POSTGRESQL)


def _shown(url: URL) -> str:
    """Return a database as an error line and the service name it: without user and password."""
    return without_passwords(str(url)) if url.drivername == POSTGRESQL else str(url.database)


def _prepare_sqlite(connection: Any, _: object) -> None:
    """Have SQLite write ahead, so that readers hold no writer back, and wait for the disk."""
    connection.isolation_level = None  # Python's module would end transactions at its own will
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _with_outcomes(connection: sa.Connection, estimate_id: str) -> Row:
    found = connection.execute(sa.select(estimates).where(estimates.c.id == estimate_id))
    row = found.mappings().first()
    if row is None:
        raise Problem("unknown-estimate", f"{estimate_id}: no estimate has this id")
    recorded = connection.execute(
        sa.select(outcomes.c.price_usd, outcomes.c.recorded_at)
        .where(outcomes.c.estimate_id == estimate_id)
        .order_by(outcomes.c.id.desc())
        .limit(SHOWN_OUTCOMES)
    )
    return dict(row) | {"outcomes": [dict(one) for one in recorded.mappings()][::-1]}
