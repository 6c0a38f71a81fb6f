-- Acknowledges tasks of one lane, as asynq's own script acknowledges one, and to the same effect.
--
-- KEYS  1 active  2 lease  3 processed today  4 processed  5... task hashes
-- ARGV  1 when the count of today lapses, Unix seconds  2 largest count  3... task ids
-- Returns for each task 1, or 0 if it was not there to be acknowledged.
local ids, hashes = {}, {}
for i = 5, #KEYS do
	ids[i - 4], hashes[i - 4] = ARGV[i - 2], KEYS[i]
end
-- Where all have a hash and a lease, which is nearly always, both go with a command for all instead of one for each.
local whole = redis.call('EXISTS', unpack(hashes)) == #ids
for _, lease in ipairs(whole and redis.call('ZMSCORE', KEYS[2], unpack(ids)) or {}) do
	whole = whole and lease
end
local answers, gone, rest = {}, {}, {}
for i, id in ipairs(ids) do
	-- An id is in the list once, and the oldest are at its end.
	local ok = redis.call('LREM', KEYS[1], -1, id) == 1
		and (whole or redis.call('ZREM', KEYS[2], id) == 1 and redis.call('DEL', hashes[i]) == 1)
	answers[i] = ok and 1 or 0
	if ok then
		gone[#gone + 1], rest[#rest + 1] = id, hashes[i]
	end
end
local done = #gone
if whole and done > 0 then
	redis.call('ZREM', KEYS[2], unpack(gone))
	redis.call('DEL', unpack(rest))
end
if done > 0 then
	if redis.call('INCRBY', KEYS[3], done) == done then
		redis.call('EXPIREAT', KEYS[3], ARGV[1])
	end
	-- Lua's numbers are floats: near the largest count, which no fleet reaches, this begins anew a little early.
	local total = redis.call('GET', KEYS[4])
	if total and tonumber(total) + done >= tonumber(ARGV[2]) then
		redis.call('SET', KEYS[4], done)
	else
		redis.call('INCRBY', KEYS[4], done)
	end
end
return answers
