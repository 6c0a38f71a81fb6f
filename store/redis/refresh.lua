-- Tells whether a text needs no embedding, because the document has its vectors in this space, or has a
-- higher version. In the first case a newer version and its metadata are taken over.
-- KEYS[1] document  KEYS[2] changes  KEYS[3] seq  KEYS[4] space-of-record  KEYS[5] stats (untouched)
-- ARGV[1] space     ARGV[2] version  ARGV[3] text hash  ARGV[4] meta  ARGV[5] id
-- Returns {1, ''} if nothing needs embedding, {0, ''} if it does, {-1, space-of-record} if refused.
local space, version, hash = ARGV[1], ARGV[2], ARGV[3]

local claimed = redis.call('GET', KEYS[4])
if claimed and claimed ~= space then
  return {-1, claimed}
end

local old = redis.call('HMGET', KEYS[1], 'space', 'version', 'text_hash')
if not (old[1] and old[2] and old[3]) then
  return {0, ''}
end
if less(version, old[2]) then
  return {1, ''}
end
if old[1] ~= space or old[3] ~= hash then
  return {0, ''}
end
if version ~= old[2] then
  redis.call('HSET', KEYS[1], 'version', version, 'meta', ARGV[4])
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[5])
end
return {1, ''}
