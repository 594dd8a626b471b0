-- title: What may work at the next run
-- about: Entries that failed for a reason outside themselves; they are tried again.
SELECT name, reason, text, entry_id, run_id, decided_at FROM states WHERE state = 'failed' ORDER BY decided_at
