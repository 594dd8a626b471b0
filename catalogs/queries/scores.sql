-- title: The figures of each conversion beside copy and random
-- about: Divergence gain with its interval, then direction and size of the effect, and drift. Best first.
SELECT
    any_value(entries.name) AS name,
    any_value(conversions.method) AS method,
    round(any_value(value) FILTER (candidate = 'converted' AND figure = 'divergence_gain'), 3) AS divergence_gain,
    round(any_value(low) FILTER (candidate = 'converted' AND figure = 'divergence_gain'), 3) AS low,
    round(any_value(high) FILTER (candidate = 'converted' AND figure = 'divergence_gain'), 3) AS high,
    round(any_value(value) FILTER (candidate = 'copy' AND figure = 'divergence_gain'), 3) AS copy_gain,
    round(any_value(value) FILTER (candidate = 'random' AND figure = 'divergence_gain'), 3) AS random_gain,
    round(any_value(value) FILTER (candidate = 'converted' AND figure = 'effect_cosine'), 3) AS effect_cosine,
    round(any_value(value) FILTER (candidate = 'converted' AND figure = 'effect_gain'), 3) AS effect_gain,
    round(any_value(value) FILTER (candidate = 'converted' AND figure = 'drift'), 3) AS drift,
    any_value(verdicts.passed) AS passed,
    scores.conversion_id
FROM scores
LEFT JOIN conversions ON conversions.conversion_id = scores.conversion_id
LEFT JOIN entries ON entries.entry_key = conversions.entry_key
LEFT JOIN verdicts ON verdicts.conversion_id = scores.conversion_id
GROUP BY scores.conversion_id ORDER BY divergence_gain DESC NULLS LAST, name
