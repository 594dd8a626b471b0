-- title: Adapters by the base they were trained on
-- about: What the files say (base) beside what the catalogue says (base_label), with dialects and current states.
SELECT
    adapters.base, entries.base_label, adapters.dialect, count(*) AS adapters,
    list_sort(list_distinct(list(states.state))) AS states
FROM adapters
LEFT JOIN entries ON entries.entry_key = adapters.entry_key
LEFT JOIN states ON states.entry_key = adapters.entry_key
GROUP BY ALL ORDER BY adapters DESC, adapters.base
