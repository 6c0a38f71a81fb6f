-- Stores a record, unless the document is there in the same or a higher version, or the alias writes
-- another space. An alias without a space-of-record gets this one.
-- KEYS[1] document  KEYS[2] changes  KEYS[3] seq  KEYS[4] space-of-record  KEYS[5] stats
-- ARGV[1] space     ARGV[2] version  ARGV[3] text hash  ARGV[4] text  ARGV[5] meta
-- ARGV[6] chunks    ARGV[7] vectors  ARGV[8] number of chunks  ARGV[9] tokens of all chunks  ARGV[10] id
-- Returns {1, ''} if stored, {0, ''} if there was nothing to do, {-1, space-of-record} if refused.
local space, version, hash = ARGV[1], ARGV[2], ARGV[3]

local claimed = redis.call('GET', KEYS[4])
if claimed and claimed ~= space then
  return {-1, claimed}
end

local old = redis.call('HMGET', KEYS[1], 'space', 'version', 'text_hash', 'chunks')
if old[1] and old[2] and old[3] then
  if less(version, old[2]) then
    return {0, ''}
  end
  -- A record of the old space gives way at an equal version: that is what re-embedding means.
  if version == old[2] and old[1] == space and not (old[3] < hash) then
    return {0, ''}
  end
  forget(KEYS[5], old[1], old[4])
end

if not claimed then
  redis.call('SET', KEYS[4], space)
end
redis.call('HSET', KEYS[1], 'text', ARGV[4], 'meta', ARGV[5], 'text_hash', hash, 'version', version,
  'space', space, 'chunks', ARGV[6], 'vectors', ARGV[7])
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[10])
redis.call('HINCRBY', KEYS[5], space .. ':docs', 1)
redis.call('HINCRBY', KEYS[5], space .. ':chunks', ARGV[8])
redis.call('HINCRBY', KEYS[5], space .. ':tokens', ARGV[9])
redis.call('HINCRBY', KEYS[5], space .. ':texts_total', 1)
redis.call('HINCRBY', KEYS[5], space .. ':tokens_total', ARGV[9])
return {1, ''}
