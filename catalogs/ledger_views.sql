-- What the ledger's events say, one view per kind of fact, with typed columns.
-- Each view shows the latest word on its subject; the table `event` keeps them all. Times are UTC.
-- `->>` stands in brackets beside an operator: older DuckDB binds it weaker than `=`.

CREATE OR REPLACE VIEW runs AS
SELECT
    started.run_id,
    started.body->>'$.migration' AS migration,
    started.recorded_at::TIMESTAMP AS started_at,
    finished.recorded_at::TIMESTAMP AS finished_at,
    CASE WHEN finished.run_id IS NULL THEN 'unfinished' ELSE 'finished' END AS progress,
    finished.body->'$.states' AS states,
    finished.body->'$.seconds' AS seconds,
    finished.body->>'$.report' AS report,
    started.body->>'$.code_version' AS code_version,
    started.body->'$.settings' AS settings,
    started.body->'$.versions' AS versions
FROM (
    SELECT * FROM event WHERE kind = 'run_started'
    QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY sequence) = 1
) AS started
LEFT JOIN (
    SELECT * FROM event WHERE kind = 'run_finished'
    QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY sequence DESC) = 1
) AS finished ON finished.run_id = started.run_id;

CREATE OR REPLACE VIEW entries AS
SELECT
    subject AS entry_key,
    body->>'$.entry.catalogue' AS catalogue,
    body->>'$.entry.entry_id' AS entry_id,
    body->>'$.entry.name' AS name,
    body->>'$.entry.kind' AS kind,
    body->>'$.entry.base_label' AS base_label,
    body->>'$.entry.terms.licence' AS licence,
    TRY_CAST(body->>'$.entry.terms.allow_derivatives' AS BOOLEAN) AS allow_derivatives,
    body->>'$.entry.creator' AS creator,
    body->>'$.entry.origin' AS origin,
    body->>'$.entry.declared_sha256' AS declared_sha256,
    TRY_CAST(body->>'$.entry.size_bytes' AS BIGINT) AS size_bytes,
    TRY_CAST(body->'$.entry.trigger_words' AS VARCHAR[]) AS trigger_words,
    TRY_CAST(body->>'$.decision.convert' AS BOOLEAN) AS may_convert,
    TRY_CAST(body->>'$.decision.publish' AS BOOLEAN) AS may_publish,
    body->'$.decision.reasons' AS reasons,
    TRY_CAST(body->'$.entry.notes' AS VARCHAR[]) AS notes,
    run_id,
    recorded_at::TIMESTAMP AS seen_at
FROM event WHERE kind = 'entry_seen'
QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1;

CREATE OR REPLACE VIEW files AS
SELECT
    subject AS sha256,
    body->>'$.entry_key' AS entry_key,
    body->>'$.role' AS role,
    TRY_CAST(body->>'$.size' AS BIGINT) AS size_bytes,
    run_id,
    recorded_at::TIMESTAMP AS stored_at
FROM event WHERE kind = 'file_stored'
QUALIFY row_number() OVER (PARTITION BY subject, body->>'$.entry_key' ORDER BY sequence DESC) = 1;

CREATE OR REPLACE VIEW adapters AS
SELECT
    subject AS weights_sha256,
    body->>'$.entry_key' AS entry_key,
    body->>'$.file_sha256' AS file_sha256,
    body->>'$.dialect' AS dialect,
    TRY_CAST(body->'$.algorithms' AS VARCHAR[]) AS algorithms,
    TRY_CAST(body->'$.ranks' AS BIGINT[]) AS ranks,
    body->>'$.dtype' AS dtype,
    coalesce(TRY_CAST(body->>'$.sites' AS BIGINT), json_array_length(body->'$.sites')::BIGINT) AS sites,
    body->>'$.base' AS base,
    body->'$.evidence' AS evidence,
    coalesce(json_array_length(body->'$.unmappable'), 0)::BIGINT AS unmappable_tensors,
    body->'$.unmappable' AS unmappable,
    run_id,
    recorded_at::TIMESTAMP AS read_at
FROM event WHERE kind = 'adapter_read'
QUALIFY row_number() OVER (PARTITION BY subject, body->>'$.entry_key' ORDER BY sequence DESC) = 1;

CREATE OR REPLACE VIEW plans AS
SELECT
    subject AS plan_id,
    body->>'$.method' AS method,
    body->>'$.source' AS source,
    body->>'$.target' AS target,
    body->'$.settings' AS settings,
    coalesce(TRY_CAST(body->>'$.sites' AS BIGINT), json_array_length(body->'$.sites')::BIGINT) AS sites,
    TRY_CAST(body->>'$.seconds' AS DOUBLE) AS seconds,
    body->>'$.source_fingerprint' AS source_fingerprint,
    body->>'$.target_fingerprint' AS target_fingerprint,
    body->>'$.key' AS plan_key,
    body->>'$.path' AS path,
    body->'$.similarity' AS similarity,
    run_id,
    recorded_at::TIMESTAMP AS compiled_at
FROM event WHERE kind = 'plan_compiled'
QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1;

CREATE OR REPLACE VIEW conversions AS
SELECT
    subject AS conversion_id,
    body->>'$.entry_key' AS entry_key,
    body->>'$.method' AS method,
    body->>'$.source' AS source,
    body->>'$.target' AS target,
    TRY_CAST(body->>'$.sites_mapped' AS BIGINT) AS sites_mapped,
    TRY_CAST(body->>'$.sites_total' AS BIGINT) AS sites_total,
    TRY_CAST(body->>'$.kept_norm' AS DOUBLE) AS kept_norm,
    TRY_CAST(body->>'$.dropped_norm_share' AS DOUBLE) AS dropped_norm_share,
    TRY_CAST(body->>'$.approximated_norm_share' AS DOUBLE) AS approximated_norm_share,
    body->>'$.weights_sha256' AS weights_sha256,
    body->>'$.weights_sha256_out' AS weights_sha256_out,
    body->>'$.plan_id' AS plan_id,
    body->'$.files' AS files,
    body->>'$.dialect' AS dialect,
    body->'$.dropped_sites' AS dropped_sites,
    TRY_CAST(body->>'$.seconds' AS DOUBLE) AS seconds,
    run_id,
    recorded_at::TIMESTAMP AS converted_at
FROM event WHERE kind = 'converted'
QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1;

CREATE OR REPLACE VIEW scores AS
WITH card AS (
    SELECT * FROM event WHERE kind = 'scored'
    QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1
),
candidate AS (
    SELECT card.subject, card.body, card.run_id, card.recorded_at, each.key AS candidate, each.value AS figures
    FROM card, json_each(card.body->'$.figures') AS each
)
SELECT
    candidate.subject AS conversion_id,
    candidate.candidate,
    each.key AS figure,
    TRY_CAST(each.value->>'$.value' AS DOUBLE) AS value,
    TRY_CAST(each.value->>'$.low' AS DOUBLE) AS low,
    TRY_CAST(each.value->>'$.high' AS DOUBLE) AS high,
    candidate.body->>'$.probe_id' AS probe_id,
    TRY_CAST(candidate.body->>'$.seconds' AS DOUBLE) AS seconds,
    candidate.run_id,
    candidate.recorded_at::TIMESTAMP AS scored_at
FROM candidate, json_each(candidate.figures) AS each;

CREATE OR REPLACE VIEW verdicts AS
SELECT
    subject AS conversion_id,
    TRY_CAST(body->>'$.passed' AS BOOLEAN) AS passed,
    body->'$.reasons' AS reasons,
    body->'$.gate' AS gate,
    run_id,
    recorded_at::TIMESTAMP AS judged_at
FROM event WHERE kind = 'judged'
QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1;

CREATE OR REPLACE VIEW publications AS
SELECT
    coalesce(done.subject, intended.subject) AS conversion_id,
    coalesce(done.body->>'$.hub', intended.body->>'$.hub') AS hub,
    CASE WHEN done.subject IS NULL THEN 'pending' ELSE 'published' END AS progress,
    done.body->>'$.location' AS location,
    intended.body->>'$.slug' AS slug,
    coalesce(done.body->>'$.manifest_sha256', intended.body->>'$.manifest_sha256') AS manifest_sha256,
    done.body->'$.files' AS files,
    coalesce(done.run_id, intended.run_id) AS run_id,
    intended.recorded_at::TIMESTAMP AS intended_at,
    done.recorded_at::TIMESTAMP AS published_at
FROM (
    SELECT * FROM event WHERE kind = 'publication_intended'
    QUALIFY row_number() OVER (PARTITION BY subject, body->>'$.hub' ORDER BY sequence DESC) = 1
) AS intended
FULL JOIN (
    SELECT * FROM event WHERE kind = 'published'
    QUALIFY row_number() OVER (PARTITION BY subject, body->>'$.hub' ORDER BY sequence DESC) = 1
) AS done ON done.subject = intended.subject AND (done.body->>'$.hub') = (intended.body->>'$.hub');

CREATE OR REPLACE VIEW outcomes AS
SELECT
    event.sequence,
    event.subject AS entry_key,
    coalesce(runs.migration, '') AS migration,
    event.body->>'$.entry_id' AS entry_id,
    event.body->>'$.name' AS name,
    event.body->>'$.state' AS state,
    event.body->>'$.reason' AS reason,
    event.body->>'$.text' AS text,
    event.body->>'$.conversion_id' AS conversion_id,
    event.body->>'$.work_key' AS work_key,
    event.run_id,
    event.recorded_at::TIMESTAMP AS decided_at
FROM event LEFT JOIN runs ON runs.run_id = event.run_id
WHERE event.kind = 'outcome';

CREATE OR REPLACE VIEW states AS
SELECT * EXCLUDE (sequence)
FROM outcomes
QUALIFY row_number() OVER (PARTITION BY migration, entry_key ORDER BY sequence DESC) = 1;
