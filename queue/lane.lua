-- How one lane stands, at one moment. Reads only.
--
-- KEYS  1 pending  2 active  3 scheduled  4 retry  5 archived  6 paused  7 dead  8 counts  9 processed
-- ARGV  1 prefix of the task hashes, which share the slot of the keys  2 tasks at each end of the lane whose
--       sizes are looked at
-- Returns numbers: now in Unix microseconds, pending, active, scheduled, retry, retry due, archived, dead,
--   paused (0 or 1), crashes, duplicates, processed, since when the oldest waits in Unix nanoseconds (0: unknown,
--   or nobody does), bytes of the tasks looked at, how many these were, their tokens by the estimate of whoever
--   enqueued them. As strings: Lua's numbers are too short.
--   A field that a hand in Redis made something else of counts as absent, so that one does not hide all.
local function number(value)
	local fits = type(value) == 'string' and (#value < 19 or #value == 19 and value <= '9223372036854775807')
	return fits and value:match('^%d+$') or '0'
end

local time = redis.call('TIME')
local oldest = redis.call('LINDEX', KEYS[1], -1)
local counts = redis.call('HMGET', KEYS[8], 'crashes', 'duplicates')
local bytes, looked, tokens = 0, 0, 0
for _, range in ipairs({ { 0, ARGV[2] - 1 }, { -ARGV[2], -1 } }) do
	for _, id in ipairs(redis.call('LRANGE', KEYS[1], range[1], range[2])) do
		local size = tonumber(redis.pcall('HSTRLEN', ARGV[1] .. id, 'msg')) or 0
		if size > 0 then -- else its hash is gone, which is for fsck to find
			bytes, looked = bytes + size, looked + 1
			local known = tonumber(redis.call('HGET', ARGV[1] .. id, 'tokens'))
			tokens = tokens + (known and known >= 0 and known <= 2 ^ 20 and math.floor(known) or math.floor(size / 4))
		end
	end
end
return {
	time[1] .. string.format('%06d', tonumber(time[2])),
	tostring(redis.call('LLEN', KEYS[1])),
	tostring(redis.call('LLEN', KEYS[2])),
	tostring(redis.call('ZCARD', KEYS[3])),
	tostring(redis.call('ZCARD', KEYS[4])),
	tostring(redis.call('ZCOUNT', KEYS[4], '-inf', time[1])),
	tostring(redis.call('ZCARD', KEYS[5])),
	tostring(redis.call('ZCARD', KEYS[7])),
	tostring(redis.call('EXISTS', KEYS[6])),
	number(counts[1]),
	number(counts[2]),
	number(redis.call('GET', KEYS[9])),
	number(oldest and redis.pcall('HGET', ARGV[1] .. oldest, 'pending_since')),
	tostring(bytes),
	tostring(looked),
	tostring(tokens),
}
