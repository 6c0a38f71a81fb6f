-- Takes tasks of a dead worker back (T2, T34). Every id is judged again here, by Redis's clock, since it was
-- listed a moment ago. Never looks into a message.
--
-- KEYS  1 active  2 lease  3 pending  4 counts  5... task hashes
-- ARGV  1 crashes that make a task suspect
--       then for each task its id and the worker that died inside it, '' for none: each worker is charged
--       to a task once, for its calls are remembered longer than its tasks stay away
-- Returns one word for each task:
--   alive     its lease holds, or it is not active any more: nothing was done
--   returned  it is at the head of its lane again, no retry charged
--   gone      its hash is gone: the id was taken out of the lists
--   suspect   it has crashed too often; it stays active under a new lease of 5 s, for the caller to move
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local since = time[1] .. string.format('%06d', tonumber(time[2])) .. '000'

-- Whether nobody works on the id: its lease has lapsed, or it is active without one.
local function abandoned(id)
	local lease = redis.call('ZSCORE', KEYS[2], id)
	if lease then
		return tonumber(lease) < now
	end
	return redis.call('LPOS', KEYS[1], id)
end

-- How often workers died inside the task, this time included.
local function crashes(hash, worker)
	local known = tonumber(redis.call('HGET', hash, 'crashes')) or 0 -- a hand may have written anything
	if worker ~= '' and redis.call('HGET', hash, 'charged') ~= worker then
		redis.call('HSET', hash, 'charged', worker)
		redis.pcall('HINCRBY', KEYS[4], 'crashes', 1)
		known = known + 1
		redis.call('HSET', hash, 'crashes', known)
	end
	return known
end

local returned = false
local function take(hash, id, worker)
	if not abandoned(id) then
		return 'alive'
	end
	local fields = redis.pcall('HLEN', hash) -- fails where there is something else than a hash
	if type(fields) ~= 'number' or fields == 0 then -- counting would make a phantom of it
		redis.call('LREM', KEYS[1], 0, id)
		redis.call('ZREM', KEYS[2], id)
		return 'gone'
	end
	redis.call('HDEL', hash, 'holder') -- whoever had it is fenced off
	if crashes(hash, worker) >= tonumber(ARGV[1]) then
		redis.call('ZADD', KEYS[2], now + 5, id)
		return 'suspect'
	end
	redis.call('LREM', KEYS[1], 0, id)
	redis.call('ZREM', KEYS[2], id)
	if redis.call('HGET', hash, 'state') == 'active' then
		redis.call('RPUSH', KEYS[3], id)
		redis.call('HSET', hash, 'state', 'pending', 'pending_since', since)
		returned = true
	end
	return 'returned'
end

local answers = {}
for i = 5, #KEYS do
	local n = 2 + 2 * (i - 5)
	answers[i - 4] = take(KEYS[i], ARGV[n], ARGV[n + 1])
end
if returned then
	redis.pcall('PUBLISH', KEYS[3], '') -- wakes the consumers
end
return answers
