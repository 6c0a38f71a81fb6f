-- Puts tasks of one lane there, whatever became of earlier tasks of the same ids (T16). Equal in effect to
-- asynq's own enqueue where there is no earlier one.
--
-- KEYS  1 pending  2 active  3 lease  4 scheduled  5 retry  6 archived  7 completed  8 dead  9 causes
--       10 cancelled  11 counts  12... task hashes
-- ARGV  1 now, Unix nanoseconds  2 prefix of the letters, which share the slot of the keys
--       3 how many may wait, 0 for any number
--       then for each task its id and its message
-- Returns one word for each task:
--   enqueued  it is new
--   attached  it waits or runs already
--   done      it was done a short while ago and is still remembered
--   rerun     it had failed for good and gets a new life; its dead letter is gone
--   full      there is no room for it, nothing was done
--   repaired  its hash was left over without a place in any list, and was replaced
local fresh = {} -- ids of this call, which are in no list until the end

-- Whether a list holds the id. LPOS reads the whole list, so a long one is trusted: fsck looks at those.
local function listed(key, id)
	return redis.call('LLEN', key) > 1000 or redis.call('LPOS', key, id)
end

-- What to do about a hash that exists already. All but 'rerun' and 'repaired' leave it as it is.
local function judge(hash, id)
	if fresh[id] then
		return 'attached'
	end
	if redis.call('ZSCORE', KEYS[6], id) then
		-- Also when the state says otherwise: asynq's archive can fail half-way (T6).
		redis.call('ZREM', KEYS[6], id)
		return 'rerun'
	end
	local state = redis.call('HGET', hash, 'state')
	if state == 'completed' and redis.call('ZSCORE', KEYS[7], id) then
		return 'done'
	end
	if state == 'scheduled' and redis.call('ZSCORE', KEYS[4], id)
		or state == 'retry' and redis.call('ZSCORE', KEYS[5], id)
		or state == 'pending' and listed(KEYS[1], id)
		or state == 'active' and (redis.call('ZSCORE', KEYS[3], id) or listed(KEYS[2], id)) then
		return 'attached'
	end
	return 'repaired'
end

local answers, ids = {}, {}
local letters = redis.call('EXISTS', KEYS[8]) == 1 -- saves a look per task
local cancelled = redis.call('EXISTS', KEYS[10]) == 1
local room = tonumber(ARGV[3])
room = room > 0 and room - redis.call('LLEN', KEYS[1]) or math.huge
local attached = 0
for i = 12, #KEYS do
	local n = 4 + 2 * (i - 12)
	local hash, id, msg = KEYS[i], ARGV[n], ARGV[n + 1]
	local answer = 'enqueued'
	if redis.call('EXISTS', hash) == 1 then
		answer = judge(hash, id)
		if answer == 'rerun' or answer == 'repaired' then
			redis.call('DEL', hash)
		end
	elseif #ids >= room then
		answer = 'full'
	end
	if answer ~= 'attached' and answer ~= 'done' and answer ~= 'full' then
		redis.call('HSET', hash, 'msg', msg, 'state', 'pending', 'pending_since', ARGV[1])
		fresh[id] = true
		ids[#ids + 1] = id
		if letters and forget(KEYS[8], KEYS[9], ARGV[2] .. id, id) then
			answer = 'rerun'
		end
	end
	if cancelled and answer ~= 'full' then
		redis.call('ZREM', KEYS[10], id) -- somebody wants it again
	end
	if answer == 'attached' or answer == 'done' then
		attached = attached + 1
	end
	answers[i - 11] = answer
end
if attached > 0 then
	redis.call('HINCRBY', KEYS[11], 'duplicates', attached)
end
if #ids > 0 then
	redis.call('LPUSH', KEYS[1], unpack(ids))
end
return answers
