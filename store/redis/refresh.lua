-- Tells of records of one alias and one space whether they need no embedding, because the document has its vectors
-- in this space, or has a higher version. In the first case a newer version and its metadata are taken over.
-- KEYS[1] changes  KEYS[2] seq  KEYS[3] space-of-record  KEYS[4] stats (untouched)  KEYS[5] deleted  KEYS[6...] documents
-- ARGV[1] space, then for each record its version, text hash, meta, id
-- Returns '' and for each record 1 if nothing needs embedding, 0 if it does, or what is wrong with its key; the
-- space-of-record alone if refused.
local space = ARGV[1]
local claimed = redis.call('GET', KEYS[3])
if claimed and claimed ~= space then
  return {claimed}
end

local answers, renewed = {''}, {}
local known = redis.call('EXISTS', unpack(KEYS, 6)) > 0 -- where none is, which is usual, none is read
local removed = gone(KEYS[5])
for i = 6, #KEYS do
  local a = 4 * (i - 6) + 2
  local old = known and redis.pcall('HMGET', KEYS[i], 'space', 'version', 'text_hash') or {}
  local answer = 0
  if old.err then
    answer = old.err
  elseif removed(ARGV[a + 3], ARGV[a]) then
    answer = 1 -- a deleted document needs no vectors
  elseif old[1] and old[2] and old[3] then
    if less(ARGV[a], old[2]) then
      answer = 1
    elseif old[1] == space and old[3] == ARGV[a + 1] then
      answer = 1
      if ARGV[a] ~= old[2] then
        redis.call('HSET', KEYS[i], 'version', ARGV[a], 'meta', ARGV[a + 2])
        renewed[#renewed + 1] = ARGV[a + 3]
      end
    end
  end
  answers[i - 4] = answer
end
if #renewed > 0 then
  log(KEYS[1], KEYS[2], renewed)
end
return answers
