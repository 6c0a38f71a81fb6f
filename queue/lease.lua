-- Leases tasks of one lane, as asynq's own dequeue leases one, and to the same effect.
--
-- KEYS  1 pending  2 active  3 lease  4 paused
-- ARGV  1 how many tasks at most  2 when the leases lapse, Unix seconds  3 prefix of the task hashes
-- Returns id, message, id, message ...; nothing if the lane is empty or paused.
local taken = {}
if redis.call('EXISTS', KEYS[4]) == 1 then
	return taken
end
for _ = 1, tonumber(ARGV[1]) do
	local id = redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
	if not id then
		break
	end
	redis.call('ZADD', KEYS[3], ARGV[2], id)
	local hash = ARGV[3] .. id
	local msg = redis.call('HGET', hash, 'msg')
	if msg then -- else its hash is gone; it stays active for the reaper to find, and gets no new hash (T34)
		redis.call('HSET', hash, 'state', 'active')
		redis.call('HDEL', hash, 'pending_since')
		taken[#taken + 1] = id
		taken[#taken + 1] = msg
	end
end
return taken
