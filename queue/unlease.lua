-- Gives leased tasks back to the head of their lane, no retry charged. Of tasks that are not active any more
-- nothing is touched.
--
-- KEYS  1 pending  2 active  3 lease
-- ARGV  1 prefix of the task hashes, then the ids, the first leased first
-- Returns how many went back.
local time = redis.call('TIME')
local since = time[1] .. string.format('%06d', tonumber(time[2])) .. '000'
local count = 0
for i = #ARGV, 2, -1 do -- the last first, so that the first is at the head in the end
	local id = ARGV[i]
	local hash = ARGV[1] .. id
	if redis.call('LREM', KEYS[2], 1, id) == 1 then
		redis.call('ZREM', KEYS[3], id)
		if redis.call('EXISTS', hash) == 1 then
			redis.call('HSET', hash, 'state', 'pending', 'pending_since', since)
			redis.call('RPUSH', KEYS[1], id)
			count = count + 1
		end
	end
end
return count
