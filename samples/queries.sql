-- Example queries. Run them from the archive folder:
--   duckdb -init views.sql -c ".read ../samples/queries.sql"

-- Which songs are the newest, and where are their audio files?
SELECT created_at, title, duration_seconds, prompt, audio_path FROM songs ORDER BY created_at DESC NULLS LAST LIMIT 20;

-- What does the archive contain?
SELECT status, type, model, count(*) AS tasks FROM tasks GROUP BY ALL ORDER BY tasks DESC;

-- What did each day cost per model? Failed and timed-out tasks are refunded. One credit is 0.01 USD.
SELECT created_at::DATE AS day, model, sum(credits_cost) AS credits, sum(credits_cost) / 100 AS usd
FROM tasks WHERE status = 'success' GROUP BY day, model ORDER BY day, model;

-- What is the running total, month by month?
SELECT month, usd, sum(usd) OVER (ORDER BY month) AS usd_so_far
FROM (SELECT date_trunc('month', created_at) AS month, sum(credits_cost) / 100 AS usd
      FROM tasks WHERE status = 'success' GROUP BY month) ORDER BY month;

-- How often does each model fail?
SELECT model, count(*) AS tasks, round(100.0 * count(*) FILTER (status <> 'success') / count(*), 1) AS failed_percent
FROM tasks WHERE status <> 'not_found' GROUP BY model ORDER BY failed_percent DESC;

-- At which hours of the day (UTC) do tasks fail?
SELECT extract('hour' FROM created_at AT TIME ZONE 'UTC') AS hour, count(*) AS tasks,
  round(100.0 * count(*) FILTER (status <> 'success') / count(*), 1) AS failed_percent
FROM tasks WHERE status <> 'not_found' GROUP BY hour ORDER BY hour;

-- Why do tasks fail?
SELECT error, count(*) AS tasks FROM tasks WHERE error IS NOT NULL GROUP BY error ORDER BY tasks DESC;

-- How long do tasks take from creation to completion?
SELECT type, model, count(*) AS tasks,
  quantile_cont(epoch(completed_at - created_at), [0.5, 0.9, 0.99]) AS seconds_half_nine_tenths_nearly_all
FROM tasks WHERE status = 'success' AND completed_at >= created_at GROUP BY type, model ORDER BY tasks DESC;

-- How many hours of music are there?
SELECT model, count(*) AS clips, round(sum(duration_seconds) / 3600, 2) AS hours FROM clips GROUP BY model;

-- How long are the songs?
SELECT floor(duration_seconds / 30)::INTEGER * 30 AS from_seconds, count(*) AS clips, bar(count(*), 0, 50, 50) AS histogram
FROM clips WHERE duration_seconds IS NOT NULL GROUP BY from_seconds ORDER BY from_seconds;

-- Which tags are used most?
SELECT lower(trim(tag)) AS tag, count(*) AS clips
FROM (SELECT unnest(string_split(tags, ',')) AS tag FROM clips) WHERE trim(tag) <> '' GROUP BY ALL ORDER BY clips DESC LIMIT 10;

-- Which songs have no audio in the archive, and why? (Normally none.)
SELECT songs.task_id, songs.clip_id, title, coalesce(error, 'not requested') AS why
FROM songs LEFT JOIN assets ON assets.task_id = songs.task_id AND assets.clip_id = songs.clip_id AND kind = 'audio'
WHERE audio_path IS NULL ORDER BY songs.created_at DESC;

-- Which prompt produced each song, and where is the audio file?
SELECT title, duration_seconds, prompt, audio_path FROM songs WHERE prompt IS NOT NULL ORDER BY title LIMIT 20;

-- What were the results of recent runs?
SELECT started_at, finished_at::TIMESTAMPTZ - started_at::TIMESTAMPTZ AS took, exit_code, rows.tasks AS tasks,
  requests.total AS requests, requests.rate_limited AS refused_with_429
FROM read_json('runs/*.json') ORDER BY started_at DESC LIMIT 10;

-- Which fields does the provider send for clips? The archive stores the full response.
SELECT json_keys(clip) AS fields, count(*) AS clips FROM clips GROUP BY fields ORDER BY clips DESC;
