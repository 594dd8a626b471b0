-- title: What got lost on the way
-- about: Per conversion: sites without a counterpart, the share of norm dropped with them, tensors left out on reading.
SELECT
    entries.name, conversions.method, conversions.sites_total - conversions.sites_mapped AS sites_lost,
    conversions.sites_total, round(conversions.dropped_norm_share, 4) AS dropped_norm_share,
    round(conversions.kept_norm, 4) AS kept_norm, adapters.unmappable_tensors, conversions.conversion_id
FROM conversions
LEFT JOIN entries ON entries.entry_key = conversions.entry_key
LEFT JOIN adapters
    ON adapters.weights_sha256 = conversions.weights_sha256 AND adapters.entry_key = conversions.entry_key
ORDER BY dropped_norm_share DESC NULLS LAST, entries.name
