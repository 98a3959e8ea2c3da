-- Ten questions to an archive. From inside its folder:
--   duckdb -init views.sql -c ".read ../samples/queries.sql"

-- What is in it?
SELECT status, type, model, count(*) AS tasks FROM tasks GROUP BY ALL ORDER BY tasks DESC;

-- What did each day cost? Failed and timed-out tasks are refunded; 1 credit is 0.01 USD.
SELECT created_at::DATE AS day, sum(credits_cost) AS credits, sum(credits_cost) * 0.01 AS usd
FROM tasks WHERE status = 'success' GROUP BY day ORDER BY day;

-- Which model fails how often?
SELECT model, count(*) AS tasks, round(100.0 * count(*) FILTER (status <> 'success') / count(*), 1) AS failed_percent
FROM tasks WHERE status <> 'not_found' GROUP BY model ORDER BY failed_percent DESC;

-- Why do tasks fail?
SELECT error, count(*) AS tasks FROM tasks WHERE error IS NOT NULL GROUP BY error ORDER BY tasks DESC;

-- How long does a task take?
SELECT type, count(*) AS tasks, quantile_cont(date_diff('second', created_at, completed_at), [0.5, 0.9]) AS seconds
FROM tasks WHERE completed_at IS NOT NULL GROUP BY type ORDER BY tasks DESC;

-- How much music is it?
SELECT model, count(*) AS clips, round(sum(duration_seconds) / 3600, 2) AS hours FROM clips GROUP BY model;

-- How long are the songs?
SELECT floor(duration_seconds / 30)::INTEGER * 30 AS from_seconds, count(*) AS clips
FROM clips WHERE duration_seconds IS NOT NULL GROUP BY from_seconds ORDER BY from_seconds;

-- Which tags are used most?
SELECT trim(tag) AS tag, count(*) AS clips
FROM (SELECT unnest(string_split(tags, ',')) AS tag FROM clips) GROUP BY ALL ORDER BY clips DESC LIMIT 10;

-- Which prompt made which song, and where is it?
SELECT title, duration_seconds, prompt, audio_url FROM clips JOIN tasks USING (task_id)
WHERE prompt IS NOT NULL ORDER BY title LIMIT 20;

-- What else did the provider say? The whole answer is kept.
SELECT json_keys(clip) AS fields, count(*) AS clips FROM clips GROUP BY fields ORDER BY clips DESC;
