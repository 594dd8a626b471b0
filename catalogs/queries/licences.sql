-- title: Terms of the catalogue
-- about: Entries by licence and by what the policy decided from it.
SELECT
    coalesce(licence, 'unknown') AS licence, allow_derivatives, may_convert, may_publish, count(*) AS entries
FROM entries GROUP BY ALL ORDER BY entries DESC, licence
