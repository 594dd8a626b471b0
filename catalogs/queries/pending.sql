-- title: Publications that were begun but not confirmed
-- about: Normally empty; the next run looks at the hub and settles each of them.
SELECT conversion_id, hub, slug, manifest_sha256, intended_at, run_id
FROM publications WHERE progress = 'pending' ORDER BY intended_at
