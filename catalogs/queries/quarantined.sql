-- title: Broken or hostile files
-- about: What was wrong with each file, and where.
SELECT name, reason, text, entry_id, decided_at FROM states WHERE state = 'quarantined' ORDER BY reason, name
