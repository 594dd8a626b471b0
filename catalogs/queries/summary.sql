-- title: How many entries are in which state
-- about: One row per migration, state and reason.
SELECT migration, state, reason, count(*) AS entries
FROM states GROUP BY ALL ORDER BY migration, entries DESC, state, reason
