-- Mends one kind of inconsistency in one lane. Every id is judged again here: what was seen may be over.
--
-- KEYS  1 pending  2 active  3 lease  4 scheduled  5 retry  6 archived  7 completed  8... task hashes
-- ARGV  1 action  2 now, Unix seconds  3... task ids. The actions:
--   drop     an id in a list has no hash: out of the lists
--   forget   a hash has no message, or is of a task that is done: out of the lists and away
--   archive  a message can't be read: to the archived, which become dead letters
--   place    a hash is in no list: to the pending, or to the archived if it had failed for good
--   settle   an id is in two places, or in another than its hash says: to the one that loses nothing
-- Returns how many were mended.
local places = { scheduled = 4, retry = 5, archived = 6, completed = 7 }

local function leave(id)
	return redis.call('LREM', KEYS[1], 0, id) + redis.call('LREM', KEYS[2], 0, id) + redis.call('ZREM', KEYS[3], id)
		+ redis.call('ZREM', KEYS[4], id) + redis.call('ZREM', KEYS[5], id)
		+ redis.call('ZREM', KEYS[6], id) + redis.call('ZREM', KEYS[7], id)
end

local function listed(id)
	for _, i in pairs(places) do
		if redis.call('ZSCORE', KEYS[i], id) then
			return true
		end
	end
	return redis.call('ZSCORE', KEYS[3], id) or redis.call('LPOS', KEYS[2], id) or redis.call('LPOS', KEYS[1], id)
end

local function pend(hash, id)
	redis.call('RPUSH', KEYS[1], id)
	redis.call('HSET', hash, 'state', 'pending', 'pending_since', ARGV[2] .. '000000000')
end

local function archive(hash, id)
	redis.call('ZADD', KEYS[6], ARGV[2], id)
	redis.call('HSET', hash, 'state', 'archived')
end

local mend = {}

function mend.drop(hash, id)
	return redis.call('EXISTS', hash) == 0 and leave(id) > 0
end

function mend.forget(hash, id)
	local known = redis.call('HMGET', hash, 'msg', 'state')
	if known[1] and known[2] ~= 'completed' then
		return false
	end
	leave(id)
	return redis.call('DEL', hash) > 0
end

function mend.archive(hash, id)
	if redis.call('EXISTS', hash) == 0 then
		return false
	end
	leave(id)
	archive(hash, id)
	return true
end

function mend.place(hash, id)
	if redis.call('EXISTS', hash) == 0 or listed(id) then
		return false
	end
	if redis.call('HGET', hash, 'state') == 'archived' then
		archive(hash, id)
	else
		pend(hash, id)
	end
	return true
end

function mend.settle(hash, id)
	local state = redis.call('HGET', hash, 'state')
	if not state or state == 'active' and redis.call('ZSCORE', KEYS[3], id) then
		return false -- gone, or a worker has it: the reaper's business
	end
	local place = places[state]
	local score = place and redis.call('ZSCORE', KEYS[place], id)
	leave(id)
	if score then
		redis.call('ZADD', KEYS[place], score, id)
	else
		pend(hash, id)
	end
	return true
end

local mended = 0
for i = 8, #KEYS do
	if mend[ARGV[1]](KEYS[i], ARGV[i - 5]) then
		mended = mended + 1
	end
end
return mended
