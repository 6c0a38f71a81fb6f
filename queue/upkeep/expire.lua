-- Drops tasks at the head of a lane for which nobody waits any more, as workers do on their way.
--
-- KEYS  1 pending  2 counts  3 cancelled
-- ARGV  1 prefix of the task hashes, which share the slot of the keys
-- Returns how many were dropped.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local dropped = 0
for _, id in ipairs(redis.call('LRANGE', KEYS[1], -1000, -1)) do
	local hash = ARGV[1] .. id
	local expires = tonumber(redis.pcall('HGET', hash, 'expires')) -- a hand may have written anything
	if expires and expires < now then
		redis.call('LREM', KEYS[1], -1, id)
		redis.call('DEL', hash)
		redis.call('ZREM', KEYS[3], id)
		dropped = dropped + 1
	end
end
if dropped > 0 then
	redis.call('HINCRBY', KEYS[2], 'expired', dropped)
end
return dropped
