-- title: The compiled plans
-- about: Per plan: method, bases, sites, the time it took, and how many adapters it has carried.
SELECT
    plans.method, plans.source, plans.target, plans.sites, round(plans.seconds, 2) AS seconds,
    count(conversions.conversion_id) AS conversions, plans.plan_id, plans.path, plans.compiled_at
FROM plans LEFT JOIN conversions ON conversions.plan_id = plans.plan_id
GROUP BY ALL ORDER BY plans.compiled_at
