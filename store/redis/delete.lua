-- Deletes a document. Its member of the change log stays, under a new number, so that indexes learn of it.
-- KEYS[1] document  KEYS[2] changes  KEYS[3] seq  KEYS[4] space-of-record (untouched)  KEYS[5] stats
-- ARGV[1] id
-- Returns 1 if it was there, else 0.
-- See put.lua.
local function count(field)
  local readable, chunks, tokens = pcall(function()
    local chunks, tokens = cjson.decode(field), 0
    for _, c in ipairs(chunks) do tokens = tokens + c[3] end
    return #chunks, tokens
  end)
  if readable then return chunks, tokens end
  return 0, 0
end

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local old = redis.call('HMGET', KEYS[1], 'space', 'chunks')
if old[1] then
  local chunks, tokens = count(old[2])
  redis.call('HINCRBY', KEYS[5], old[1] .. ':docs', -1)
  redis.call('HINCRBY', KEYS[5], old[1] .. ':chunks', 0 - chunks) -- a plain minus makes -0 of 0
  redis.call('HINCRBY', KEYS[5], old[1] .. ':tokens', 0 - tokens)
end
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[1])
redis.call('DEL', KEYS[1]) -- last, since a full Redis refuses the others but not this
return 1
