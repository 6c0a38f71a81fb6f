-- Stands before the scripts that change documents.

-- Versions are decimal integers of up to 19 digits, more than a Lua number holds: compare as strings.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- What a document's field "chunks" adds to the counts; nothing if somebody damaged it.
local function count(field)
  local readable, chunks, tokens = pcall(function()
    local chunks, tokens = cjson.decode(field), 0
    for _, c in ipairs(chunks) do tokens = tokens + c[3] end
    return #chunks, tokens
  end)
  if readable then return chunks, tokens end
  return 0, 0
end

-- forget takes a document that goes or gives way out of its space's counts.
-- stats is their key, space and chunks the document's fields.
local function forget(stats, space, chunks)
  local n, tokens = count(chunks)
  redis.call('HINCRBY', stats, space .. ':docs', -1)
  redis.call('HINCRBY', stats, space .. ':chunks', 0 - n) -- a plain minus makes -0 of 0
  redis.call('HINCRBY', stats, space .. ':tokens', 0 - tokens)
end


-- gone returns a function that tells whether a document was deleted in the given version or a later one. Its key is
-- nearly always empty, and then one look is enough for all.
local function gone(key)
  local some = redis.call('EXISTS', key) == 1
  return function(id, version)
    local deleted = some and redis.call('HGET', key, id)
    return deleted and not less(deleted, version)
  end
end

-- log gives documents that were written the next numbers of the change log, in their order.
-- changes and seq are its keys.
local function log(changes, seq, ids)
  local last, members = redis.call('INCRBY', seq, #ids), {}
  for i, id in ipairs(ids) do
    members[2 * i - 1] = last - #ids + i
    members[2 * i] = id
  end
  redis.call('ZADD', changes, unpack(members))
end
