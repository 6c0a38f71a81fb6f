-- Deletes a document. Its member of the change log stays, under a new number, so that indexes learn of it.
-- KEYS[1] document  KEYS[2] changes  KEYS[3] seq  KEYS[4] space-of-record (untouched)  KEYS[5] stats
-- ARGV[1] id
-- Returns 1 if it was there, else 0.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local old = redis.call('HMGET', KEYS[1], 'space', 'chunks')
if old[1] then
  forget(KEYS[5], old[1], old[2])
end
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[1])
redis.call('DEL', KEYS[1]) -- last, since a full Redis refuses the others but not this
return 1
