-- The one table of facts. Rows are only ever added; every view is computed from them.
CREATE TABLE event (
    sequence BIGINT NOT NULL,        -- 1, 2, 3 … without a gap
    recorded_at VARCHAR NOT NULL,    -- ISO 8601, UTC
    run_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,           -- entry_seen, converted, published …
    subject VARCHAR NOT NULL,        -- what the fact is about: an entry key, a sha256, a conversion id …
    body JSON NOT NULL,
    previous_hash VARCHAR NOT NULL,
    hash VARCHAR NOT NULL            -- sha256 over all of the above
);
