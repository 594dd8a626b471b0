-- title: What was left alone, and why
-- about: Entries that the policy forbids, that belong to another base, or that this version cannot read.
SELECT name, reason, text, entry_id, decided_at FROM states WHERE state = 'skipped' ORDER BY reason, name
