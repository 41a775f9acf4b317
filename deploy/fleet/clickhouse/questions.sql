-- The ten questions of an incident. Each takes some of these parameters; with
-- clickhouse-client they are --param_since='2026-11-21 00:00:00' and so on, or:
--   SET param_since = '2026-11-21 00:00:00';
--   SET param_until = '2026-11-22 00:00:00';
--   SET param_key = 'ASIA…';

-- 1. Who was handed this key? Its recipients, never a culprit.
SELECT host, any(host_name) AS name, user, uid, exe, unit, loginuid,
    min(time) AS first, max(time) AS last, count() AS times
FROM imdsfw.records
WHERE access_key_id = {key:String}
GROUP BY host, user, uid, exe, unit, loginuid
ORDER BY first;

-- 2. Which users read credentials that had never done so before?
SELECT host, user, uid, min(time) AS first, count() AS times,
    groupUniqArray(8)(exe) AS programs
FROM imdsfw.records
WHERE event = 'request' AND class = 'credentials' AND decision = 'allow'
    AND time < {until:DateTime64(6, 'UTC')}
GROUP BY host, user, uid
HAVING first >= {since:DateTime64(6, 'UTC')}
ORDER BY first;

-- 3. Which programs got a role's credentials for the first time, fleet-wide?
SELECT role, exe, min(time) AS first, uniq(host) AS hosts,
    groupUniqArray(8)(user) AS users, count() AS times
FROM imdsfw.records
WHERE event = 'request' AND class = 'credentials' AND decision = 'allow'
    AND access_key_id != '' AND time < {until:DateTime64(6, 'UTC')}
GROUP BY role, exe
HAVING first >= {since:DateTime64(6, 'UTC')}
ORDER BY first;

-- 4. Who was denied credentials or secrets, and then allowed? By what?
SELECT d.host AS host, d.user AS user, d.uid AS uid, d.path AS path,
    d.denied AS denied, d.reason AS reason, a.time AS allowed,
    dateDiff('second', d.denied, a.time) AS seconds, a.reason AS then, a.rule AS rule
FROM
(
    SELECT host, user, assumeNotNull(uid) AS uid, path,
        max(time) AS denied, argMax(reason, time) AS reason
    FROM imdsfw.records
    WHERE event = 'request' AND class IN ('credentials', 'secrets')
        AND decision = 'deny' AND uid IS NOT NULL
        AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
    GROUP BY host, user, uid, path, toStartOfHour(time)
) AS d
ASOF INNER JOIN
(
    SELECT host, assumeNotNull(uid) AS uid, path, time, reason, rule
    FROM imdsfw.records
    WHERE event = 'request' AND class IN ('credentials', 'secrets')
        AND decision = 'allow' AND uid IS NOT NULL
        AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
) AS a ON d.host = a.host AND d.uid = a.uid AND d.path = a.path AND d.denied < a.time
WHERE seconds <= 3600
ORDER BY denied;

-- 5. Who came with another user's token? Most likely it was stolen, or shared.
SELECT host, user, uid, exe, count() AS times, min(time) AS first, max(time) AS last,
    groupUniqArray(8)(path) AS paths
FROM imdsfw.records
WHERE event = 'request' AND decision = 'deny'
    AND reason = 'token_invalid' AND detail = 'other_uid'
    AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
GROUP BY host, user, uid, exe
ORDER BY times DESC;

-- 6. On which hosts were the kernel rules changed, by what, and how long open?
SELECT host, any(host_name) AS name, countIf(event = 'rules.drift') AS drifts,
    countIf(event = 'rules.unguarded') AS unguarded,
    max(JSONExtract(detail, 'open_us', 'Nullable(UInt64)')) / 1e6 AS open_seconds_at_most,
    groupUniqArrayArray(8)(JSONExtract(detail, 'by', 'Array(Tuple(name String))').1) AS by,
    min(time) AS first, max(time) AS last
FROM imdsfw.records
WHERE event IN ('rules.drift', 'rules.restored', 'rules.unguarded')
    AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
GROUP BY host
ORDER BY drifts DESC;

-- 7. Who still comes without a token (IMDSv1), and so needs it before it goes?
SELECT user, exe, uniq(host) AS hosts, countIf(decision = 'allow') AS allowed,
    countIf(decision = 'deny') AS denied, max(time) AS last
FROM imdsfw.records
WHERE event = 'request' AND imds = 'v1'
    AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
GROUP BY user, exe
ORDER BY allowed + denied DESC;

-- 8. Which credentials and secrets were given out while a lockdown, a bypass or
--    a grant was on?
WITH windows AS
(
    SELECT host, splitByChar('.', event)[1] AS kind, splitByChar('.', event)[2] AS edge,
        JSONExtractString(detail, 'id') AS grant, time AS begins,
        JSONExtractString(detail, 'reason') AS why,
        JSONExtractInt(detail, 'by', 'uid') AS by_uid,
        leadInFrame(time, 1, {until:DateTime64(6, 'UTC')}) OVER (
            PARTITION BY host, kind, grant ORDER BY time
            ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS ends
    FROM imdsfw.records
    WHERE event IN ('lockdown.started', 'lockdown.ended', 'bypass.started',
        'bypass.ended', 'grant.started', 'grant.ended')
        AND time < {until:DateTime64(6, 'UTC')}
)
SELECT w.host AS host, w.kind AS kind, w.begins AS begins, w.ends AS ends, w.why AS why,
    w.by_uid AS by_uid, countIf(r.time BETWEEN w.begins AND w.ends) AS passed,
    groupUniqArrayIf(8)(r.user, r.time BETWEEN w.begins AND w.ends) AS users,
    groupUniqArrayIf(8)(r.reason, r.time BETWEEN w.begins AND w.ends) AS reasons
FROM (SELECT * FROM windows WHERE edge = 'started' AND ends >= {since:DateTime64(6, 'UTC')}) AS w
LEFT JOIN
(
    SELECT host, time, user, reason
    FROM imdsfw.records
    WHERE event = 'request' AND class IN ('credentials', 'secrets') AND decision = 'allow'
        AND time < {until:DateTime64(6, 'UTC')}
        AND host IN (SELECT host FROM windows)
) AS r ON w.host = r.host
GROUP BY host, kind, begins, ends, why, by_uid
ORDER BY begins;

-- 9. Which hosts miss records: by gaps in their numbers, and by their own word?
WITH JSONExtractString(detail, 'sink') AS sink
SELECT host, any(host_name) AS name, uniqExact(seq) AS here,
    max(seq) - min(seq) + 1 - here AS missing,
    sumIf(JSONExtractUInt(detail, 'records'), event = 'audit.lost' AND sink IN ('file', '')) AS said_lost,
    countIf(event = 'audit.failing' AND sink IN ('file', '')) AS failed, max(time) AS last
FROM imdsfw.records
WHERE time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
GROUP BY host
HAVING missing > 0 OR said_lost > 0 OR failed > 0
ORDER BY missing DESC;

-- 10. Which keys were handed out on more than one host? An instance's own are
--     its own: two hosts with one key are a clone, or one stands before another.
SELECT access_key_id, any(role) AS role, groupUniqArray(8)(host) AS hosts,
    uniqExact(host) AS how_many, groupUniqArray(8)(user) AS users,
    min(time) AS first, max(time) AS last
FROM imdsfw.records
WHERE event = 'request' AND class = 'credentials' AND decision = 'allow'
    AND access_key_id != ''
    AND time >= {since:DateTime64(6, 'UTC')} AND time < {until:DateTime64(6, 'UTC')}
GROUP BY access_key_id
HAVING how_many > 1
ORDER BY first;
