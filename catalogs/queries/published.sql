-- title: What was published, and where it lies
-- about: Every publication with the figures it was let through on.
SELECT
    states.name, conversions.method, conversions.source, conversions.target,
    round(gain.value, 3) AS divergence_gain, publications.location, publications.conversion_id, publications.published_at
FROM publications
LEFT JOIN conversions ON conversions.conversion_id = publications.conversion_id
LEFT JOIN states ON states.conversion_id = publications.conversion_id
LEFT JOIN scores AS gain
    ON gain.conversion_id = publications.conversion_id AND gain.candidate = 'converted' AND gain.figure = 'divergence_gain'
WHERE publications.progress = 'published'
ORDER BY publications.published_at, states.name
