-- Deletes a document. Its member of the change log stays, under a new number, so that indexes learn of it; and its
-- version stays among the deleted ones, so that a task that is on its way does not bring it back.
-- KEYS[1] changes  KEYS[2] seq  KEYS[3] space-of-record (untouched)  KEYS[4] stats  KEYS[5] deleted  KEYS[6] document
-- ARGV[1] id  ARGV[2] version up to which the document is deleted
-- Returns 1 if it was there in that version or a lower one, else 0.
local old = redis.call('HMGET', KEYS[6], 'space', 'chunks', 'version')
if old[3] and old[3]:match('^%d+$') and less(ARGV[2], old[3]) then -- a damaged one may always go
  return 0
end
local deleted = redis.call('HGET', KEYS[5], ARGV[1])
if not deleted or less(deleted, ARGV[2]) then
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[2])
end
if redis.call('EXISTS', KEYS[6]) == 0 then
  return 0
end
if old[1] then
  forget(KEYS[4], old[1], old[2])
end
log(KEYS[1], KEYS[2], {ARGV[1]})
redis.call('DEL', KEYS[6]) -- last, since a full Redis refuses the others but not this
return 1
