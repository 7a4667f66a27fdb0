"""The workers: Celery tasks that drain partitions when rung for, and the sweeper that drains what nobody rang for."""
