-- Lines of a fleet of 200 hosts over 30 days, {rows:UInt64} of them, with an
-- incident in the last day; always the same ones.
WITH
    200 AS hosts,
    toDateTime64('2026-11-01 00:00:00', 6, 'UTC') AS start,
    30 * 86400 AS length,
    number % hosts AS h,
    intDiv(number, hosts) + 1 AS s,
    -- The incident begins with the last day; p counts what is planted in it.
    intDiv({rows:UInt64}, hosts) AS per_host,
    intDiv(per_host * 29, 30) + 2 AS b,
    if(s >= b AND s < b + 10, s - b, 0) AS p,
    start + toIntervalMicrosecond(toInt64(if(p > 0,
        (toFloat64(b) * hosts + h) / {rows:UInt64} * length * 1e6 + p * 30e6,
        (toFloat64(s) * hosts + h) / {rows:UInt64} * length * 1e6))) AS at,
    cityHash64(number) AS r,
    r % 1000 AS dice,
    multiIf(
        h = 11 AND p IN (1, 3), if(p = 1, 'deny_credentials', 'allow_credentials'),
        h = 11 AND p = 2, 'grant.started', h = 11 AND p = 4, 'grant.ended',
        h = 11 AND p = 5, 'lockdown.started', h = 11 AND p = 7, 'lockdown.ended',
        h = 11 AND p = 6, 'allow_credentials',
        h = 12 AND p BETWEEN 1 AND 3, 'stolen_token',
        h = 13 AND p = 1, 'rules.drift', h = 13 AND p = 2, 'rules.restored',
        h = 13 AND p = 3, 'rules.unguarded', h = 13 AND p = 4, 'rules.guarded',
        h = 14 AND p = 1, 'bypass.started', h = 14 AND p = 2, 'allow_credentials',
        h = 14 AND p = 3, 'bypass.ended',
        h = 8 AND p = 1, 'audit.failing', h = 8 AND p = 2, 'audit.lost',
        h = 8 AND p = 3, 'audit.recovered', h = 8 AND p = 4, 'sink.lost',
        h IN (15, 16) AND p = 2, 'allow_credentials',
        dice < 550, 'routine', dice < 700, 'token', dice < 800, 'allow_credentials',
        dice < 900, 'deny_credentials', dice < 950, 'no_token', dice < 990, 'deny_secrets',
        'malformed') AS kind,
    h = 11 AND p IN (1, 3) OR h = 12 AND p BETWEEN 1 AND 3 AS is_mallory,
    h = 14 AND p = 2 AS is_alice,
    multiIf(is_mallory, 6666, is_alice, 4100, kind = 'allow_credentials', if(r % 2 = 0 OR p > 0, 0, 980),
        4000 + intDiv(r, 1000) % 40) AS uid,
    multiIf(is_mallory, 'mallory', is_alice, 'alice', uid = 0, 'root', uid = 980, 'ci-runner',
        'user' || leftPad(toString(uid - 4000), 2, '0')) AS user,
    multiIf(is_mallory, '/var/tmp/x', is_alice, '/usr/bin/curl',
        uid = 0, '/usr/bin/amazon-ssm-agent', uid = 980, '/usr/bin/aws',
        kind = 'no_token', '/opt/legacy/agent', '/usr/bin/python3.11') AS exe,
    '01M8083Y356J' || leftPad(hex(number), 14, '0') AS id,
    '01M8083Y356JGRANT000000001' AS grant,
    'i-' || leftPad(lower(hex(h)), 17, '0') AS instance,
    if(h IN (15, 16) AND p = 2, 'ASIASHAREDSHARED0000',
        'ASIA' || substring(hex(cityHash64(h, intDiv(toUnixTimestamp(at), 21600))), 1, 16)) AS key,
    multiIf(kind = 'routine', '/latest/meta-data/instance-id', kind = 'token', '/latest/api/token',
        kind = 'deny_secrets', '/latest/user-data',
        '/latest/meta-data/iam/security-credentials/web') AS path,
    multiIf(kind = 'routine', 'routine', kind = 'deny_secrets', 'secrets', 'credentials') AS class,
    if(kind IN ('routine', 'token', 'allow_credentials'), 'allow', 'deny') AS decision,
    multiIf(is_alice, 'bypassed', decision = 'allow', 'allowed', kind = 'malformed', 'malformed',
        kind = 'no_token', 'token_missing', kind = 'stolen_token', 'token_invalid',
        kind = 'deny_secrets', 'policy', 'default') AS reason,
    multiIf(kind = 'malformed', '"detail":"dot_segment",', kind = 'stolen_token', '"detail":"other_uid",',
        is_alice, '"detail":"default",', '') AS detail,
    multiIf(is_mallory AND decision = 'allow', '"' || grant || '"',
        kind = 'allow_credentials' AND NOT is_alice, '"root and the runner"',
        kind = 'routine', '"everyone reads routine facts"',
        kind = 'deny_secrets', '"nobody reads user data"', 'null') AS rule,
    multiIf(kind = 'no_token' OR kind = 'stolen_token', '401', kind = 'malformed', '400',
        decision = 'allow', '200', '403') AS status,
    '{"uid":0,"pid":911,"login":1000}' AS by,
    '{"schema":1,"seq":' || toString(s) || ',"time":"' || formatDateTime(at, '%Y-%m-%dT%H:%i:%S.%fZ') || '",' AS head,
    ',"version":"0.1.0","host":{"name":"ip-10-0-' || toString(intDiv(h, 100)) || '-' || toString(h % 100)
        || '","machine_id":"' || lower(hex(sipHash128(h))) || '","boot_id":"0c7a5d3e-94a0-4f0e-8d3c-2f6b1a9e7d54",'
        || '"instance_id":"' || instance || '","account":"123456789012","region":"eu-central-1"}}' AS tail,
    '"event":"request","id":"' || id || '","verdict":' || if(kind IN ('malformed', 'token'), 'null',
            '"' || if(is_alice, 'deny', decision) || '"')
        || ',"decision":"' || decision || '","reason":"' || reason || '",' || detail
        || '"rule":' || rule || ',"policy":"sha256:9b2f2d5c","mode":"enforce","caller":{"uid":' || toString(uid)
        || ',"user":"' || user || '","gid":' || toString(uid + 100) || ',"groups":["' || user
        || '"],"pid":' || toString(1000 + r % 60000) || ',"exe":"' || exe || '","comm":"'
        || splitByChar('/', exe)[-1] || '","loginuid":' || if(uid < 1000, '-1', toString(uid)) || ',"ses":'
        || if(uid < 1000, '-1', toString(r % 900)) || ',"unit":"'
        || if(uid < 1000, splitByChar('/', exe)[-1] || '.service', 'session-' || toString(r % 900) || '.scope')
        || '","address":"10.0.' || toString(intDiv(h, 100)) || '.' || toString(h % 100) || ':'
        || toString(32768 + r % 28000) || '"},"request":{"method":"' || if(kind = 'token', 'PUT', 'GET')
        || '","path":' || if(kind = 'malformed', 'null', '"' || path || '"') || ',"class":'
        || if(kind IN ('malformed', 'token'), 'null', '"' || class || '"')
        || ',"imds":"' || if(kind = 'no_token', 'v1', 'v2') || '","user_agent":"aws-sdk/1.0"'
        || if(kind = 'malformed', ',"raw":"/latest/../user-data"', '') || '},"status":' || status
        || ',"bytes":' || if(status = '200', '1312', '0') || ',"latency_us":' || toString(60 + r % 2000)
        || if(kind = 'routine', ',"served":"memory"', '')
        || if(kind = 'allow_credentials', ',"credential":{"access_key_id":"' || key
            || '","role":"web","expiration":"2026-12-02T00:00:00Z"}', '') AS request,
    multiIf(
        kind = 'grant.started', '{"id":"' || grant || '","who":["user:mallory"],"paths":["@role"],"seconds":3600,'
            || '"until":"2026-11-30T02:00:00Z","reason":"deploy","by":' || by || '}',
        kind = 'grant.ended', '{"id":"' || grant || '","who":["user:mallory"],"paths":["@role"],"why":"revoked",'
            || '"by":' || by || ',"uses":1}',
        kind = 'lockdown.started', '{"except":["user:root"],"reason":"key leaked","by":' || by || '}',
        kind = 'lockdown.ended', '{"since":"2026-11-30T01:00:00Z","by":' || by || '}',
        kind = 'bypass.started', '{"hard":false,"seconds":1800,"until":"2026-11-30T01:30:00Z","reason":"outage","by":'
            || by || '}',
        kind = 'bypass.ended', '{"hard":false,"why":"revoked","by":' || by || '}',
        kind = 'rules.drift', '{"changed":[{"kind":"missing","place":"table inet imdsfw","line":null}],'
            || '"changed_omitted":0,"by":[{"pid":2211,"name":"nft"}]}',
        kind = 'rules.restored', '{"by":[{"pid":2211,"name":"nft"}],"open_us":31250,"denied_meanwhile":true}',
        kind = 'rules.unguarded', '{"why":"the watcher of the rules has fallen silent"}',
        kind = 'audit.failing', '{"sink":"file","error":"No space left on device (os error 28)"}',
        kind = 'audit.lost', '{"sink":"file","records":12}',
        kind = 'sink.lost', '{"sink":"siem","records":40}',
        kind = 'audit.recovered', '{"sink":"file","lost":12,"failing_ms":61250}', '{}') AS of_event
SELECT head || if(kind LIKE '%.%', '"event":"' || replaceOne(kind, 'sink.', 'audit.') || '","detail":' || of_event, request) || tail AS line
FROM numbers({rows:UInt64})
WHERE NOT (h = 7 AND p BETWEEN 1 AND 5)
