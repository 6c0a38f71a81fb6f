-- Sends due tasks back to their lane, 100 at most, as the forwarder in each asynq server does (T20).
--
-- KEYS  1 scheduled or retry  2 pending
-- ARGV  1 prefix of the task hashes, which share the slot of the keys
-- Returns how many went.
local time = redis.call('TIME')
local since = time[1] .. string.format('%06d', tonumber(time[2])) .. '000'
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', time[1], 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
	redis.call('ZREM', KEYS[1], id)
	local hash = ARGV[1] .. id
	if redis.call('EXISTS', hash) == 1 then
		redis.call('LPUSH', KEYS[2], id)
		redis.call('HSET', hash, 'state', 'pending', 'pending_since', since)
	end
end
if #ids > 0 then
	redis.pcall('PUBLISH', KEYS[2], '') -- wakes the consumers
end
return #ids
