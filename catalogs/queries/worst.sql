-- title: Where a conversion does worse than a plain copy
-- about: Conversions by how far copy beats them; the first rows are the ones to look at.
SELECT
    entries.name, conversions.method, round(own.value, 3) AS divergence_gain, round(copy.value, 3) AS copy_gain,
    round(own.value - copy.value, 3) AS difference, own.conversion_id
FROM scores AS own
JOIN scores AS copy
    ON copy.conversion_id = own.conversion_id AND copy.candidate = 'copy' AND copy.figure = own.figure
LEFT JOIN conversions ON conversions.conversion_id = own.conversion_id
LEFT JOIN entries ON entries.entry_key = conversions.entry_key
WHERE own.candidate = 'converted' AND own.figure = 'divergence_gain'
ORDER BY difference, entries.name
