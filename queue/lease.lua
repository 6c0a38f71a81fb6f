-- Leases tasks of one lane, as asynq's own dequeue leases one, and to the same effect but for pending_since, which
-- stays: nobody reads it of an active task, and what goes back gets another, or keeps it where asynq's requeue gave none.
--
-- KEYS  1 pending  2 active  3 lease  4 paused
-- ARGV  1 how many tasks at most  2 when the leases lapse, Unix seconds  3 prefix of the task hashes
-- Returns id, message, id, message ...; nothing if the lane is empty or paused.
local taken, ids, leases = {}, {}, {}
if redis.call('EXISTS', KEYS[4]) == 1 then
	return taken
end
local tail = redis.call('LRANGE', KEYS[1], -ARGV[1], -1)
if #tail == 0 then
	return taken
end
for i = #tail, 1, -1 do -- the oldest is the last
	local n = #ids + 1
	ids[n], leases[2 * n - 1], leases[2 * n] = tail[i], ARGV[2], tail[i]
end
redis.call('LPUSH', KEYS[2], unpack(ids)) -- first, since a full Redis refuses this but not the next
redis.call('LTRIM', KEYS[1], 0, -#tail - 1)
redis.call('ZADD', KEYS[3], unpack(leases))
for _, id in ipairs(ids) do
	local hash = ARGV[3] .. id
	local msg = redis.call('HGET', hash, 'msg')
	if msg then -- else its hash is gone; it stays active for the reaper to find, and gets no new hash (T34)
		redis.call('HSET', hash, 'state', 'active')
		taken[#taken + 1] = id
		taken[#taken + 1] = msg
	end
end
return taken
