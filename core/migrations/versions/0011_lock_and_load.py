"""A function that tries the locks of partitions and, where it gets them all, reads what a batch needs: one round trip for both.

Each statement in it has a snapshot of its own, so what is read is read behind the locks. Functions of before stay, for workers of
an earlier release.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BEGIN_BATCH = """
CREATE FUNCTION begin_batch(namespace int, lanes int[],
  job_ids uuid[], session_ids bigint[], of_sessions bigint[], email_keys text[],
  OUT free int[], OUT begun bigint, OUT held text[], OUT locked bigint[], OUT places bigint[], OUT live json)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  SELECT array_agg(lane) INTO free FROM unnest(lanes) AS lane WHERE pg_try_advisory_xact_lock(namespace, lane);
  begun := extract(epoch FROM clock_timestamp()) * 1000;
  IF cardinality(job_ids) > 0 AND cardinality(free) = cardinality(lanes) THEN
    SELECT l.held, l.locked, l.places, l.live INTO held, locked, places, live
    FROM load_batch(job_ids, session_ids, of_sessions, email_keys) AS l;
  END IF;
END $$"""


def upgrade() -> None:
    op.execute(BEGIN_BATCH)
    op.execute("REVOKE ALL ON FUNCTION begin_batch FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION begin_batch")
