-- title: What was converted and could not be scored
-- about: Bases that are known by name alone cannot be run. Never published; the files lie under conversions/ID/files.
SELECT
    states.name, conversions.source, conversions.target, conversions.method, conversions.dialect,
    conversions.sites_mapped, conversions.sites_total, round(conversions.dropped_norm_share, 4) AS dropped_norm_share,
    concat('conversions/', states.conversion_id, '/files/', conversions.files->>'$[0].name') AS file
FROM states JOIN conversions ON conversions.conversion_id = states.conversion_id
WHERE states.reason = 'not-scored' ORDER BY states.name, states.migration
