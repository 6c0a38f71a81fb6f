-- Stores records of one alias and one space, each unless its document is there in the same or a higher version;
-- none if the alias writes another space. An alias without a space-of-record gets this one.
-- KEYS[1] changes  KEYS[2] seq  KEYS[3] space-of-record  KEYS[4] stats  KEYS[5] deleted  KEYS[6...] documents
-- ARGV[1] space, then for each record its version, text hash, text, meta, chunks, vectors, number of chunks,
--         tokens of all chunks, id
-- Returns '' and for each record 1 if stored, 0 if there was nothing to do, or what is wrong with its key; the
-- space-of-record alone if refused.
local space = ARGV[1]
local claimed = redis.call('GET', KEYS[3])
if claimed and claimed ~= space then
  return {claimed}
end

-- Whether the record at ARGV[a] is to be written; else, why not.
local function wanted(key, a)
  local old = redis.pcall('HMGET', key, 'space', 'version', 'text_hash', 'chunks')
  if old.err then
    return false, old.err
  end
  if old[1] and old[2] and old[3] then
    if less(ARGV[a], old[2]) then
      return false, 0
    end
    -- A record of the old space gives way at an equal version: that is what re-embedding means.
    if ARGV[a] == old[2] and old[1] == space and not (old[3] < ARGV[a + 1]) then
      return false, 0
    end
    forget(KEYS[4], old[1], old[4])
  end
  return true, 1
end

-- Nearly always all documents are new. One look at all of them then saves a look at each.
local fresh, written = redis.call('EXISTS', unpack(KEYS, 6)) == 0, {}
local answers, stored, chunks, tokens = {''}, {}, 0, 0
local removed = gone(KEYS[5])
for i = 6, #KEYS do
  local a = 9 * (i - 6) + 2
  local write, answer = true, 1
  if removed(ARGV[a + 8], ARGV[a]) then
    write, answer = false, 0
  elseif not fresh or written[KEYS[i]] then
    write, answer = wanted(KEYS[i], a)
  end
  if write then
    written[KEYS[i]] = true
    redis.call('HSET', KEYS[i], 'text', ARGV[a + 2], 'meta', ARGV[a + 3], 'text_hash', ARGV[a + 1],
      'version', ARGV[a], 'space', space, 'chunks', ARGV[a + 4], 'vectors', ARGV[a + 5])
    chunks, tokens = chunks + ARGV[a + 6], tokens + ARGV[a + 7]
    stored[#stored + 1] = ARGV[a + 8]
  end
  answers[i - 4] = answer
end
if #stored == 0 then
  return answers
end

if not claimed then
  redis.call('SET', KEYS[3], space)
end
log(KEYS[1], KEYS[2], stored)
redis.call('HDEL', KEYS[5], unpack(stored)) -- a newer version is there again
redis.call('HINCRBY', KEYS[4], space .. ':docs', #stored)
redis.call('HINCRBY', KEYS[4], space .. ':chunks', chunks)
redis.call('HINCRBY', KEYS[4], space .. ':tokens', tokens)
redis.call('HINCRBY', KEYS[4], space .. ':texts_total', #stored)
redis.call('HINCRBY', KEYS[4], space .. ':tokens_total', tokens)
return answers
