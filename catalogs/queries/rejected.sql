-- title: What the gate rejected, and on which threshold
-- about: One row per rejected entry with its leading figure, if it has one, and the gate's own words.
SELECT
    states.name, states.reason, states.text, round(gain.value, 3) AS divergence_gain, round(gain.low, 3) AS low,
    round(gain.high, 3) AS high, conversions.method, states.conversion_id
FROM states
LEFT JOIN conversions ON conversions.conversion_id = states.conversion_id
LEFT JOIN scores AS gain
    ON gain.conversion_id = states.conversion_id AND gain.candidate = 'converted' AND gain.figure = 'divergence_gain'
WHERE states.state = 'rejected' ORDER BY gain.value, states.name
