-- Deletes a document. Its member of the change log stays, under a new number, so that indexes learn of it.
-- KEYS[1] changes  KEYS[2] seq  KEYS[3] space-of-record (untouched)  KEYS[4] stats  KEYS[5] document
-- ARGV[1] id
-- Returns 1 if it was there, else 0.
if redis.call('EXISTS', KEYS[5]) == 0 then
  return 0
end
local old = redis.call('HMGET', KEYS[5], 'space', 'chunks')
if old[1] then
  forget(KEYS[4], old[1], old[2])
end
log(KEYS[1], KEYS[2], {ARGV[1]})
redis.call('DEL', KEYS[5]) -- last, since a full Redis refuses the others but not this
return 1
