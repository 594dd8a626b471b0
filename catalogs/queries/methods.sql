-- title: How each method does
-- about: Per method and pair of bases: conversions, share that passed, and the spread of the divergence gain.
SELECT
    conversions.method, conversions.source, conversions.target, count(*) AS conversions,
    round(avg(verdicts.passed::INTEGER), 3) AS passed_share,
    round(median(gain.value), 3) AS median_gain, round(min(gain.value), 3) AS worst_gain,
    round(max(gain.value), 3) AS best_gain, round(avg(conversions.kept_norm), 3) AS mean_kept_norm,
    round(sum(conversions.seconds), 2) AS seconds
FROM conversions
LEFT JOIN verdicts ON verdicts.conversion_id = conversions.conversion_id
LEFT JOIN scores AS gain
    ON gain.conversion_id = conversions.conversion_id AND gain.candidate = 'converted' AND gain.figure = 'divergence_gain'
GROUP BY ALL ORDER BY conversions.source, conversions.target, median_gain DESC NULLS LAST
