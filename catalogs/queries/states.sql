-- title: What became of every entry
-- about: The current state of each entry with its reason, the latest migration first.
SELECT migration, name, state, reason, text, entry_id, conversion_id, decided_at
FROM states ORDER BY migration, state, name
