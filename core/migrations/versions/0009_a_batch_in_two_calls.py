"""Functions that read all a batch needs in one round trip, and write a small one in another; planned once for a connection.

Each statement in them has a snapshot of its own, as if it had been sent by itself: what is read behind the locks is what they
guard. The live reservations are planned anew each time, since a plan made while a table was small may go by the wrong index.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

LIVE_RESERVATIONS = """
CREATE FUNCTION live_reservations(session_ids bigint[], email_keys text[]) RETURNS json
LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  answer json;
BEGIN
  SELECT json_agg(json_build_array(
    r.id, r.session_id, r.name, r.email, r.email_key, r.seats, r.status, r.seq, r.client,
    (extract(epoch FROM r.created_at) * 1000)::bigint, (extract(epoch FROM r.cancelled_at) * 1000)::bigint, r.rank,
    (extract(epoch FROM r.checked_in_at) * 1000)::bigint)) INTO answer
  FROM unnest(session_ids, email_keys) AS w(session_id, email_key)
  JOIN reservations r ON r.session_id = w.session_id AND r.email_key = w.email_key AND r.status <> 'cancelled';
  RETURN answer;
END $$"""

# The session rows as arrays of numbers, which a client reads quickly.
LOAD_BATCH = """
CREATE FUNCTION load_batch(job_ids uuid[], session_ids bigint[], of_sessions bigint[], email_keys text[],
  OUT held text[], OUT locked bigint[], OUT places bigint[], OUT live json)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  SELECT array_agg(j.id::text) INTO held FROM jobs j WHERE j.id = ANY(job_ids);
  SELECT array_agg(ARRAY[
    s.id, s.capacity, s.reserved, s.waiting, s.last_seq, s.version,
    (extract(epoch FROM s.closed_at) * 1000)::bigint, (extract(epoch FROM s.cancelled_at) * 1000)::bigint,
    s.waitlist_capacity, (s.waitlist_policy = 'fill')::int, s.max_seats_per_reservation,
    (extract(epoch FROM s.opens_at) * 1000)::bigint, (extract(epoch FROM s.closes_at) * 1000)::bigint,
    (extract(epoch FROM s.start_time) * 1000)::bigint, (extract(epoch FROM s.end_time) * 1000)::bigint]) INTO locked
  FROM (SELECT * FROM sessions WHERE id = ANY(session_ids) AND NOT pruning ORDER BY id FOR UPDATE) s;
  SELECT array_agg(nextval('positions')) INTO places FROM generate_series(1, cardinality(job_ids));
  live := live_reservations(of_sessions, email_keys);
END $$"""

WRITE_BATCH = """
CREATE FUNCTION write_batch(
  r_ids bigint[], r_sessions bigint[], r_names text[], r_emails text[], r_email_keys text[], r_seats smallint[],
  r_statuses text[], r_seqs bigint[], r_clients text[], r_created timestamptz[], r_cancelled timestamptz[], r_ranks bigint[],
  r_checked_in timestamptz[],
  j_ids uuid[], j_sessions bigint[], j_seqs bigint[], j_kinds text[], j_arguments jsonb[], j_clients text[], j_hashes text[],
  j_outcomes text[], j_effects jsonb[], j_reservations bigint[], j_positions bigint[], j_accepted_seqs bigint[],
  j_replays uuid[], j_accepted timestamptz[], j_batch bigint, j_applied timestamptz) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  INSERT INTO reservations (id, session_id, name, email, email_key, seats, status, seq, client, created_at, cancelled_at, rank,
    checked_in_at)
  SELECT * FROM unnest(r_ids, r_sessions, r_names, r_emails, r_email_keys, r_seats, r_statuses, r_seqs, r_clients, r_created,
    r_cancelled, r_ranks, r_checked_in);
  INSERT INTO jobs (id, session_id, seq, kind, arguments, client, body_hash, outcome, effects, reservation_id, position,
    accepted_seq, replay_of, accepted_at, batch, applied_at)
  SELECT w.*, j_batch, j_applied FROM unnest(j_ids, j_sessions, j_seqs, j_kinds, j_arguments, j_clients, j_hashes, j_outcomes,
    j_effects, j_reservations, j_positions, j_accepted_seqs, j_replays, j_accepted) AS w;
END $$"""

NAMES = ("live_reservations", "load_batch", "write_batch")


def upgrade() -> None:
    for statement in (LIVE_RESERVATIONS, LOAD_BATCH, WRITE_BATCH):
        op.execute(statement)
    for name in NAMES:
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")


def downgrade() -> None:
    for name in reversed(NAMES):
        op.execute(f"DROP FUNCTION {name}")
