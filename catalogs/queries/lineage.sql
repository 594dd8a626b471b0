-- title: From each published file back to its source
-- about: One row per publication: source address and bytes, bases, plan, verdict, and where it lies.
SELECT
    publications.location, entries.origin, entries.licence, entries.creator, files.sha256 AS source_sha256,
    conversions.source, conversions.target, conversions.method, conversions.plan_id, plans.source_fingerprint,
    plans.target_fingerprint, verdicts.passed, runs.code_version, publications.manifest_sha256, publications.conversion_id
FROM publications
LEFT JOIN conversions ON conversions.conversion_id = publications.conversion_id
LEFT JOIN entries ON entries.entry_key = conversions.entry_key
LEFT JOIN files ON files.entry_key = conversions.entry_key AND coalesce(files.role, 'weights') = 'weights'
LEFT JOIN plans ON plans.plan_id = conversions.plan_id
LEFT JOIN verdicts ON verdicts.conversion_id = publications.conversion_id
LEFT JOIN runs ON runs.run_id = publications.run_id
WHERE publications.progress = 'published' ORDER BY publications.published_at
