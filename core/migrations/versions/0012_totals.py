"""How many sessions there are, and how many can be booked, is not counted but kept as totals, in the transactions that change it.

Until when a session can be booked, if nothing else changes, is a column that Postgres keeps; it changes seldom. Triggers add to a
total by whatever way a session changes. They wait for nobody: who finds a total's row in somebody else's hands takes another row
of it, or begins one, and the total is their sum. `sold_out` stays, for an API of the release before.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BOOKABLE_UNTIL = """
ALTER TABLE sessions ADD COLUMN bookable_until timestamptz GENERATED ALWAYS AS (
  CASE WHEN NOT pruning AND closed_at IS NULL AND cancelled_at IS NULL AND reserved < capacity
    THEN least(end_time, closes_at) END) STORED"""

# By the hour in which they cease to be bookable; all there are, bookable or not, under -infinity.
TOTALS = """
CREATE TABLE session_totals (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, hour timestamptz NOT NULL, sessions bigint NOT NULL
) WITH (fillfactor = 50)"""

ADD_TO_TOTAL = """
CREATE FUNCTION add_to_total(of_hour timestamptz, n bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE session_totals SET sessions = sessions + n
  WHERE id = (SELECT id FROM session_totals WHERE hour = of_hour LIMIT 1 FOR UPDATE SKIP LOCKED);
  IF NOT FOUND THEN
    INSERT INTO session_totals (hour, sessions) VALUES (of_hour, n);
  END IF;
END $$"""

# What sessions count for, summed up: {0} is a set of them, {1} which sign they have.
_ADD = """
PERFORM add_to_total(w.hour, {1} * count(*)) FROM (
  SELECT timestamptz '-infinity' FROM {0} WHERE NOT pruning
  UNION ALL SELECT date_trunc('hour', bookable_until, 'UTC') FROM {0} WHERE bookable_until IS NOT NULL) AS w(hour)
GROUP BY w.hour"""

FUNCTIONS = {
    "count_created": _ADD.format("created", 1),
    "count_deleted": _ADD.format("deleted", -1),
    "count_truncated": "DELETE FROM session_totals",
    "count_changed": """
  IF OLD.bookable_until IS NOT NULL THEN
    PERFORM add_to_total(date_trunc('hour', OLD.bookable_until, 'UTC'), -1);
  END IF;
  IF NEW.bookable_until IS NOT NULL THEN
    PERFORM add_to_total(date_trunc('hour', NEW.bookable_until, 'UTC'), 1);
  END IF;
  IF OLD.pruning <> NEW.pruning THEN
    PERFORM add_to_total('-infinity', CASE WHEN NEW.pruning THEN -1 ELSE 1 END);
  END IF""",
}

# Which of many updates change a total is told by Postgres without calling anything.
TRIGGERS = (
    "CREATE TRIGGER count_created AFTER INSERT ON sessions REFERENCING NEW TABLE AS created "
    "FOR EACH STATEMENT EXECUTE FUNCTION count_created()",
    "CREATE TRIGGER count_deleted AFTER DELETE ON sessions REFERENCING OLD TABLE AS deleted "
    "FOR EACH STATEMENT EXECUTE FUNCTION count_deleted()",
    "CREATE TRIGGER count_truncated AFTER TRUNCATE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION count_truncated()",
    "CREATE TRIGGER count_changed AFTER UPDATE ON sessions FOR EACH ROW "
    "WHEN (OLD.bookable_until IS DISTINCT FROM NEW.bookable_until OR OLD.pruning <> NEW.pruning) "
    "EXECUTE FUNCTION count_changed()",
)

# For the first time, and for whoever has loaded sessions past the triggers (pg_restore --disable-triggers).
RECOUNT = """
CREATE FUNCTION recount_sessions() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  LOCK TABLE sessions IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM session_totals;
  INSERT INTO session_totals (hour, sessions)
  SELECT w.hour, count(*) FROM (
    SELECT timestamptz '-infinity' FROM sessions WHERE NOT pruning
    UNION ALL SELECT date_trunc('hour', bookable_until, 'UTC') FROM sessions WHERE bookable_until IS NOT NULL) AS w(hour)
  GROUP BY w.hour;
END $$"""


def upgrade() -> None:
    op.execute(BOOKABLE_UNTIL)
    op.execute("DROP INDEX sessions_bookable")
    op.execute("CREATE INDEX sessions_bookable_until ON sessions (bookable_until) WHERE bookable_until IS NOT NULL")
    op.execute(TOTALS)
    op.execute("CREATE INDEX session_totals_by_hour ON session_totals (hour)")
    for name, function in (("add_to_total", ADD_TO_TOTAL), ("recount_sessions", RECOUNT)):
        op.execute(function)
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    for name, body in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$")
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    for trigger in TRIGGERS:
        op.execute(trigger)
    op.execute("SELECT recount_sessions()")
    op.execute("ANALYZE sessions, session_totals")


def downgrade() -> None:
    for name in FUNCTIONS:
        op.execute(f"DROP TRIGGER {name} ON sessions")
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP FUNCTION add_to_total, recount_sessions")
    op.execute("DROP TABLE session_totals")
    op.execute("ALTER TABLE sessions DROP COLUMN bookable_until")
    op.execute(
        "CREATE INDEX sessions_bookable ON sessions (end_time) INCLUDE (closes_at) "
        "WHERE pruning IS FALSE AND closed_at IS NULL AND cancelled_at IS NULL AND sold_out IS FALSE"
    )
