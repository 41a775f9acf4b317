-- Where the audit records of a fleet go, and how they get in: whatever ships
-- them inserts their lines as they are into imdsfw.lines, which keeps nothing;
-- a view reads each line once and fills imdsfw.records.
--
--   clickhouse-client < table.sql
--
-- What a line does not say is NULL or ''; a line that is no record is kept in
-- imdsfw.rejected. A shipper that sends a line twice adds no record: the two
-- become one when parts are merged, and the questions do not mind them before.

CREATE DATABASE IF NOT EXISTS imdsfw;

CREATE TABLE IF NOT EXISTS imdsfw.records
(
    time          DateTime64(6, 'UTC')   CODEC(Delta, ZSTD),
    -- By which hosts are told apart: the instance, else the machine, else the name.
    host          LowCardinality(String),
    event         LowCardinality(String),
    seq           UInt64                 CODEC(Delta, ZSTD),
    id            String                 CODEC(ZSTD),
    verdict       LowCardinality(String),
    decision      LowCardinality(String),
    reason        LowCardinality(String),
    -- A word of a request; JSON of any other event.
    detail        String                 CODEC(ZSTD),
    rule          LowCardinality(String),
    policy        LowCardinality(String),
    mode          LowCardinality(String),
    uid           Nullable(UInt32),
    user          LowCardinality(String),
    gid           Nullable(UInt32),
    groups        Array(LowCardinality(String)),
    pid           Nullable(UInt32),
    exe           LowCardinality(String),
    comm          LowCardinality(String),
    loginuid      Nullable(Int64),
    ses           Nullable(Int64),
    unit          LowCardinality(String),
    address       String                 CODEC(ZSTD),
    method        LowCardinality(String),
    path          LowCardinality(String),
    class         LowCardinality(String),
    imds          LowCardinality(String),
    user_agent    LowCardinality(String),
    raw           String                 CODEC(ZSTD),
    status        Nullable(UInt16),
    bytes         UInt64                 CODEC(T64, ZSTD),
    latency_us    UInt64                 CODEC(T64, ZSTD),
    served        LowCardinality(String),
    access_key_id String                 CODEC(ZSTD),
    role          LowCardinality(String),
    expiration    String                 CODEC(ZSTD),
    host_name     LowCardinality(String),
    machine_id    LowCardinality(String),
    boot_id       LowCardinality(String),
    account       LowCardinality(String),
    region        LowCardinality(String),
    version       LowCardinality(String),
    INDEX key access_key_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(time)
ORDER BY (event, class, decision, host, time, seq)
-- How long they are kept is yours to say:
-- TTL toDate(time) + INTERVAL 400 DAY
;

CREATE TABLE IF NOT EXISTS imdsfw.lines (line String) ENGINE = Null;

CREATE TABLE IF NOT EXISTS imdsfw.rejected
(
    received DateTime DEFAULT now(),
    line     String CODEC(ZSTD)
)
ENGINE = MergeTree ORDER BY received TTL received + INTERVAL 30 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS imdsfw.lines_to_records TO imdsfw.records AS
WITH JSONExtract(line, 'Tuple(
        seq UInt64, time String, event String, id String,
        verdict String, decision String, reason String, detail String,
        rule String, policy String, mode String,
        caller Tuple(uid Nullable(UInt32), user String, gid Nullable(UInt32),
            groups Array(String), pid Nullable(UInt32), exe String, comm String,
            loginuid Nullable(Int64), ses Nullable(Int64), unit String, address String),
        request Tuple(method String, path String, class String, imds String,
            user_agent String, raw String),
        status Nullable(UInt16), bytes UInt64, latency_us UInt64, served String,
        credential Tuple(access_key_id String, role String, expiration String),
        version String,
        host Tuple(name String, machine_id String, boot_id String,
            instance_id String, account String, region String))') AS it,
    tupleElement(it, 'caller') AS caller,
    tupleElement(it, 'request') AS request,
    tupleElement(it, 'credential') AS credential,
    tupleElement(it, 'host') AS place
SELECT
    assumeNotNull(parseDateTime64BestEffortOrNull(tupleElement(it, 'time'), 6, 'UTC')) AS time,
    multiIf(tupleElement(place, 'instance_id') != '', tupleElement(place, 'instance_id'),
        tupleElement(place, 'machine_id') != '', tupleElement(place, 'machine_id'),
        tupleElement(place, 'name')) AS host,
    tupleElement(it, 'event') AS event,
    tupleElement(it, 'seq') AS seq,
    tupleElement(it, 'id') AS id,
    tupleElement(it, 'verdict') AS verdict,
    tupleElement(it, 'decision') AS decision,
    tupleElement(it, 'reason') AS reason,
    tupleElement(it, 'detail') AS detail,
    tupleElement(it, 'rule') AS rule,
    tupleElement(it, 'policy') AS policy,
    tupleElement(it, 'mode') AS mode,
    tupleElement(caller, 'uid') AS uid,
    tupleElement(caller, 'user') AS user,
    tupleElement(caller, 'gid') AS gid,
    tupleElement(caller, 'groups') AS groups,
    tupleElement(caller, 'pid') AS pid,
    tupleElement(caller, 'exe') AS exe,
    tupleElement(caller, 'comm') AS comm,
    tupleElement(caller, 'loginuid') AS loginuid,
    tupleElement(caller, 'ses') AS ses,
    tupleElement(caller, 'unit') AS unit,
    tupleElement(caller, 'address') AS address,
    tupleElement(request, 'method') AS method,
    tupleElement(request, 'path') AS path,
    tupleElement(request, 'class') AS class,
    tupleElement(request, 'imds') AS imds,
    tupleElement(request, 'user_agent') AS user_agent,
    tupleElement(request, 'raw') AS raw,
    tupleElement(it, 'status') AS status,
    tupleElement(it, 'bytes') AS bytes,
    tupleElement(it, 'latency_us') AS latency_us,
    tupleElement(it, 'served') AS served,
    tupleElement(credential, 'access_key_id') AS access_key_id,
    tupleElement(credential, 'role') AS role,
    tupleElement(credential, 'expiration') AS expiration,
    tupleElement(place, 'name') AS host_name,
    tupleElement(place, 'machine_id') AS machine_id,
    tupleElement(place, 'boot_id') AS boot_id,
    tupleElement(place, 'account') AS account,
    tupleElement(place, 'region') AS region,
    tupleElement(it, 'version') AS version
FROM imdsfw.lines
WHERE tupleElement(it, 'event') != ''
    AND parseDateTime64BestEffortOrNull(tupleElement(it, 'time'), 6, 'UTC') IS NOT NULL;

CREATE MATERIALIZED VIEW IF NOT EXISTS imdsfw.lines_to_rejected TO imdsfw.rejected AS
SELECT line
FROM imdsfw.lines
WHERE JSONExtractString(line, 'event') = ''
    OR parseDateTime64BestEffortOrNull(JSONExtractString(line, 'time'), 6, 'UTC') IS NULL;
