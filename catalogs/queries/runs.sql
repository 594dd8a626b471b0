-- title: Every run
-- about: When it started and ended, what it counted, and its report; unfinished ones were stopped or are running.
SELECT run_id, migration, progress, started_at, finished_at, states, report, code_version FROM runs ORDER BY started_at
