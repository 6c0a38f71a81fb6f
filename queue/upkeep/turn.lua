-- Gives the turn to sweep to one process a second, and tells it what the fleet knows of the sweeps before.
--
-- KEYS  1 turn  2 state: until when nobody is taken back from, when all leases were read, when letters were trimmed;
--       by Redis's clock, Unix milliseconds
-- ARGV  1 how long a turn lasts, ms  2 '1' if Redis has just come back to the process that asks
--       3 how long nobody is taken back from then, ms
--       4 how often all leases are read, ms  5 how often letters are trimmed, ms
-- Returns nothing to whom the turn is not; else 1 or 0 for: nobody is taken back from, all leases are to be read,
--   letters are to be trimmed.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ARGV[2] == '1' then
	-- Who comes back from the same absence a little later does not begin the time anew.
	local until_ = tonumber(redis.call('HGET', KEYS[2], 'sparing')) or 0
	if until_ > now + tonumber(ARGV[3]) or until_ < now - 10000 then
		redis.call('HSET', KEYS[2], 'sparing', now + tonumber(ARGV[3]))
	end
end
if not redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) then
	return {}
end
local known = redis.call('HMGET', KEYS[2], 'sparing', 'read', 'trimmed')
local function old(i, age)
	local at = tonumber(known[i])
	return not at or now - at >= tonumber(age) or at > now -- or Redis's clock was turned back
end
local sparing = math.min(tonumber(known[1]) or 0, now + tonumber(ARGV[3]))
local read, trim = old(2, ARGV[4]), old(3, ARGV[5])
redis.call('HSET', KEYS[2], 'sparing', sparing, 'read', read and now or known[2], 'trimmed', trim and now or known[3])
return { now < sparing and 1 or 0, read and 1 or 0, trim and 1 or 0 }
