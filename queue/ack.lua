-- Acknowledges tasks of one lane, as asynq's own script acknowledges one, and to the same effect.
--
-- KEYS  1 active  2 lease  3 processed today  4 processed  5... task hashes
-- ARGV  1 when the count of today lapses, Unix seconds  2 largest count  3... task ids
-- Returns for each task 1, or 0 if it was not there to be acknowledged.
local answers, done = {}, 0
for i = 5, #KEYS do
	local id = ARGV[i - 2]
	-- An id is in the list once, and the oldest are at its end.
	local ok = redis.call('LREM', KEYS[1], -1, id) == 1
		and redis.call('ZREM', KEYS[2], id) == 1
		and redis.call('DEL', KEYS[i]) == 1
	answers[i - 4] = ok and 1 or 0
	done = done + answers[i - 4]
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
