-- Cancels tasks of one lane. Who waits alone is removed, who runs is marked for its worker; so is who waits in
-- a long line, for taking one out of the middle would read all of it.
--
-- KEYS  1 pending  2 scheduled  3 retry  4 cancelled  5... task hashes
-- ARGV  1 now, Unix seconds  2... task ids
-- Returns one word for each task: removed, marked or missing.
local function cancel(hash, id)
	local state = redis.call('HGET', hash, 'state')
	if not state or state == 'completed' or state == 'archived' then
		return 'missing'
	end
	redis.call('ZADD', KEYS[4], ARGV[1], id)
	if redis.call('ZREM', KEYS[2], id) + redis.call('ZREM', KEYS[3], id) > 0
		or state == 'pending' and redis.call('LLEN', KEYS[1]) <= 1000 and redis.call('LREM', KEYS[1], 0, id) > 0 then
		redis.call('DEL', hash)
		return 'removed'
	end
	return 'marked'
end

local answers = {}
for i = 5, #KEYS do
	answers[i - 4] = cancel(KEYS[i], ARGV[i - 3])
end
return answers
